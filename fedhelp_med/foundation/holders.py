"""Who is waiting for an answer: the name of a process that another process on the same machine can look up."""

import os
import socket
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path


def this_process() -> str:
    """Return a name of this process: its machine, its number there and when it started."""
    return f"{_place()}|{os.getpid()}|{_start(os.getpid())}"


def is_alive(holder: str, expires: float) -> bool:
    """Whether a lease is worth anything: it has not run out, and its holder is not known to have ended.

    Args:
        holder: from :func:`this_process`.
        expires: seconds since the epoch.
    """
    return expires > time.time() and not is_gone(holder)


def is_gone(holder: str) -> bool:
    """Whether the process of that name has certainly ended; False where this process cannot know."""
    place, _, rest = holder.partition("|")
    number, _, start = rest.partition("|")
    if place != _place() or os.name != "posix" or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it runs, under another user
        pass
    # A number is given again after a while: then the process of that number has started at another time.
    return _start(int(number)) != start


@lru_cache(maxsize=1)
def _place() -> str:
    """The machine since it was started and, in a container, its own numbers of processes."""
    known = [socket.gethostname()]
    with suppress(OSError):  # what other systems than Linux do not have
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        known.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(known).replace("|", " ")


def _start(number: int) -> str:
    """The time at which a process started, in ticks; empty where the system does not tell or it has just ended."""
    try:
        status = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return status.rpartition(")")[2].split()[19]  # field 22, counted behind the name, which may hold anything
