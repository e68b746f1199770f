"""Answers as bytes: how they are written, and how many of them are read at once."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_med.common.errors import FedHelpError

DTYPES = {"float32": "<f4", "float16": "<f2"}
Row = tuple[str, bytes, str, str, str]
"""An answer in the ledger: key, payload, dtype, shape, SHA-256 of the payload."""


def pack(key: str, answer: NDArray[Any]) -> Row:
    """Return an answer as it is stored: little-endian on every machine, with the hash of its bytes.

    Raises:
        FedHelpError: for other values than float32 and float16.
    """
    name = answer.dtype.name
    if name not in DTYPES:
        raise FedHelpError(f"an answer of {name} values cannot be stored: the ledger keeps float32 and float16")
    payload = np.ascontiguousarray(answer, dtype=DTYPES[name]).tobytes()
    return key, payload, name, json.dumps(list(answer.shape)), hashlib.sha256(payload).hexdigest()


def damaged(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the keys of the rows that are not what was stored."""
    sha256, size = hashlib.sha256, _size
    for key, payload, dtype, shape, digest in rows:
        if sha256(payload).hexdigest() != digest or size(dtype, shape) != len(payload):
            yield key


def unpack(rows: Iterable[Row]) -> dict[str, NDArray[Any]]:
    """Return the answers of undamaged rows, read-only arrays, by key.

    Those of one form become one array, of which each answer is a view: thousands of small arrays would take longer
    to make than to read.
    """
    rows = list(rows)
    found: dict[str, NDArray[Any]] = {}
    for form in dict.fromkeys((dtype, shape) for _, _, dtype, shape, _ in rows):
        alike = [row for row in rows if row[2:4] == form]
        whole = np.frombuffer(b"".join([row[1] for row in alike]), dtype=DTYPES[form[0]])
        found.update(zip([row[0] for row in alike], whole.reshape(len(alike), *shape_of(form[1])), strict=True))
    return found


@lru_cache
def shape_of(text: str) -> tuple[int, ...]:
    """Return the shape that :func:`pack` wrote."""
    return tuple(json.loads(text))


@lru_cache
def _size(dtype: str, shape: str) -> int:
    """Return the bytes of an answer of this form, -1 if there is no such form."""
    try:
        return np.dtype(DTYPES[dtype]).itemsize * math.prod(shape_of(shape))
    except (KeyError, ValueError, TypeError):
        return -1
