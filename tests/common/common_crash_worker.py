"""Replaces ``old`` by ``new`` again and again; the n-th time it is killed just before its n-th file operation.

``python common_crash_worker.py file|folder DIR``: the n-th attempt works in ``DIR/n``; the last one is not killed.
"""

import os
import signal
import sys
from pathlib import Path

from fedhelp_med.common.files import replacing, replacing_folder

OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.truncate"}


def write(file: Path, word: str) -> None:
    file.write_text(word)
    with file.open("a") as half_written:  # an operation at which half of the content is there
        half_written.write(f" {word}")


def replace(kind: str, path: Path, word: str) -> None:
    if kind == "file":
        with replacing(path) as temporary:
            write(temporary, word)
        return
    with replacing_folder(path) as temporary:
        (temporary / "weights").mkdir()
        for name in ("a.json", "weights/b", "weights/c"):
            write(temporary / name, word)


def die_before_operation(number: int) -> None:
    count = 0

    def watch(event: str, _: object) -> None:
        nonlocal count
        if event in OPERATIONS:
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def main(kind: str, folder: Path) -> None:
    number, killed = 0, True
    while killed:
        number += 1
        path = folder / str(number) / "result"
        replace(kind, path, "old")
        child = os.fork()
        if child == 0:
            die_before_operation(number)
            replace(kind, path, "new")
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
