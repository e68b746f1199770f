"""What no zip that is read here may hold, whatever it is read for."""

import stat
import zipfile
from pathlib import PurePosixPath


def unsafe(entry: zipfile.ZipInfo) -> str | None:
    """Say why a zip's entry is not read: its name leads elsewhere, or it is a link or encrypted; None: it may be.

    Backslashes and drive letters count as they do where the zip may be unpacked by hand.
    """
    name = entry.filename
    parts = PurePosixPath(name.replace("\\", "/")).parts
    nameless = not parts and not name.endswith("/")  # is_dir() of an empty name fails in Python 3.11
    if nameless or name.startswith(("/", "\\")) or ".." in parts or ":" in "".join(parts[:1]):
        return f"the zip's entry {name!r} leads outside its folder; use a zip from a source you trust"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return f"the zip's entry {name!r} is a symbolic link; put the file itself into the zip"
    if entry.flag_bits & 1:
        return f"the zip's entry {name!r} is encrypted; unpack the zip with its password first"
    return None
