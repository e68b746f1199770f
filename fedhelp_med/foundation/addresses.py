"""Addresses of answers by the content of the question, and stamps that tell an unchanged file."""

import hashlib
import json
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_med.foundation.protocol import PREPROCESSING, Described

# A file younger than this may change again within one tick of its file system's clock (FAT: two seconds).
SETTLED_SECONDS = 2.0


def content_key(pixels: NDArray[Any], model: Described) -> str:
    """Return the address of an answer: SHA-256 over the preprocessed pixels, the input specification and the model.

    Args:
        pixels: one image as the model receives it, `C, W, H[, D]`.
        model: the model that is asked.
    """
    little = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    about = [model.name, model.version, model.input.to_json(), little.dtype.str, list(little.shape)]
    return hashlib.sha256(json.dumps(about).encode() + b"\0" + little.tobytes()).hexdigest()


def file_stamp(path: str | Path) -> str | None:
    """Return a text that changes when the file does, or None where that is not sure (a folder, a file just written).

    The change time is part of it: unlike the modification time it cannot be set back.
    """
    try:
        status = Path(path).stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode) or time.time() - max(status.st_mtime, status.st_ctime) < SETTLED_SECONDS:
        return None
    return f"{PREPROCESSING}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
