"""A ledger's answers as one file: one site acquires, others learn from the same knowledge.

A safetensors file. Per form of answer ``g`` it holds ``answers.g`` (`N` answers, float16 or float32), ``keys.g`` and
``sha256.g`` (`N, 32` bytes); its metadata describe the models. There are no images in it and no paths.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.common.files import replacing
from fedhelp_med.foundation.ledger import ROW, Ledger
from fedhelp_med.foundation.payloads import DTYPES, Row, damaged, shape_of
from fedhelp_med.foundation.protocol import ModelDescription

FORMAT = "fedhelp-knowledge 1"
PORTION = 256  # answers that are read from a file together


@dataclass(frozen=True)
class Exchanged:
    """What went from a ledger to a file, or back.

    Attributes:
        images: answers in the file.
        new: answers that the ledger did not have.
        models: their names and versions.
    """

    images: int
    new: int
    models: tuple[str, ...]


def export_ledger(ledger: Path, file: Path) -> Exchanged:
    """Write all answers of a ledger to one file; the same answers give the same bytes.

    Args:
        ledger: the ledger.
        file: the file; it appears whole or not at all.

    Raises:
        InputError: if there is no ledger, or no answer in it.
        FedHelpError: if an answer is damaged.
    """
    tensors: dict[str, NDArray[Any]] = {}
    groups: list[dict[str, Any]] = []
    with Ledger(ledger, readonly=True) as book:
        models = book.models()
        forms = book.rows("SELECT model, dtype, shape, count(*) FROM answers GROUP BY 1, 2, 3 ORDER BY 1, 2, 3")
        if not forms:
            raise InputError(f"the ledger {ledger} has no answers yet: ask with `fedhelp foundation acquire`")
        numbers = [number for (number,) in book.rows("SELECT id FROM models ORDER BY id")]
        for place, (model, dtype, shape, images) in enumerate(forms):
            rows: Iterator[Row] = book.iterate(
                f"SELECT {ROW} FROM answers WHERE model = ? AND dtype = ? AND shape = ? ORDER BY key",
                (model, dtype, shape),
            )
            tensors |= _tensors(book, rows, place, images, dtype, shape)
            groups.append({"model": numbers.index(model), "dtype": dtype, "shape": list(shape_of(shape))})
    text = json.dumps({"models": [model.to_dict() for model in models], "groups": groups}, sort_keys=True)
    header = {"format": FORMAT, "content": text, "sha256": _digest(text, tensors)}
    with replacing(file) as temporary:
        # One entry: the library writes several in an order of its own.
        save_file(tensors, temporary, metadata={"knowledge": json.dumps(header)})
    images = sum(form[3] for form in forms)
    return Exchanged(images, 0, tuple(map(str, models)))


def import_ledger(file: Path, ledger: Path) -> Exchanged:
    """Take the answers in a file into a ledger, all or none; answers that it has already stay as they are.

    Args:
        file: from :func:`export_ledger`.
        ledger: the ledger; made if it does not exist.

    Raises:
        InputError: if the file is none of these or damaged, or the ledger knows a model of the same name and version
            with another description.
    """
    if not file.is_file():
        raise InputError(f"{file} does not exist: name a file that `fedhelp foundation export` wrote")
    try:
        with safe_open(file, framework="numpy") as tensors:
            content = _content(file, tensors)
            models = [ModelDescription.from_dict(model) for model in content["models"]]
            images = sum(len(rows) for _, rows in _portions(tensors, content["groups"]))  # all is read, so checked
            with Ledger(ledger) as book:
                numbers = [book.register(model) for model in models]
                new = 0
                with book.transaction() as write:
                    for group, rows in _portions(tensors, content["groups"]):
                        new += book.insert(write, numbers[group["model"]], rows)
                    with file.open("rb") as stream:
                        digest = hashlib.file_digest(stream, "sha256").hexdigest()
                    write.execute(
                        "INSERT INTO imports (time, file, sha256, images) VALUES (?, ?, ?, ?)",
                        (datetime.now(UTC).isoformat(timespec="seconds"), file.name, digest, new),
                    )
    except (SafetensorError, KeyError, ValueError, TypeError, IndexError, OSError) as error:
        raise InputError(f"{file} is not a file of knowledge, or is damaged ({error}): export it again") from None
    return Exchanged(images, new, tuple(map(str, models)))


def _tensors(
    book: Ledger, rows: Iterator[Row], place: int, images: int, dtype: str, shape: str
) -> Mapping[str, NDArray[Any]]:
    """Return the three tensors of one form of answer."""
    answers = np.empty((images, *shape_of(shape)), dtype=DTYPES[dtype])
    keys, digests = np.empty((images, 32), dtype=np.uint8), np.empty((images, 32), dtype=np.uint8)
    for index, row in zip(count(), rows, strict=False):
        if any(damaged([row])):
            raise FedHelpError(f"the answer {row[0]} in the ledger {book.path} is damaged: nothing was written")
        answers[index] = np.frombuffer(row[1], dtype=DTYPES[dtype]).reshape(answers.shape[1:])
        keys[index] = np.frombuffer(bytes.fromhex(row[0]), dtype=np.uint8)
        digests[index] = np.frombuffer(bytes.fromhex(row[4]), dtype=np.uint8)
    return {f"answers.{place}": answers, f"keys.{place}": keys, f"sha256.{place}": digests}


def _digest(text: str, tensors: Any) -> str:
    """Return a hash of the description, the keys and the answers' own hashes: of everything but the answers."""
    digest = hashlib.sha256(text.encode())
    for place in range(len(json.loads(text)["groups"])):
        digest.update(_get(tensors, f"keys.{place}").tobytes() + _get(tensors, f"sha256.{place}").tobytes())
    return digest.hexdigest()


def _get(tensors: Any, name: str) -> NDArray[Any]:
    tensor: NDArray[Any] = tensors[name] if isinstance(tensors, dict) else tensors.get_tensor(name)
    return tensor


def _content(file: Path, tensors: Any) -> dict[str, Any]:
    header = json.loads((tensors.metadata() or {}).get("knowledge", "{}"))
    if header.get("format") != FORMAT:
        raise InputError(f"{file} is not a file of knowledge (format {header.get('format')!r}, not {FORMAT!r})")
    if _digest(header["content"], tensors) != header["sha256"]:
        raise ValueError("its keys are not those that were written")
    content: dict[str, Any] = json.loads(header["content"])
    return content


def _portions(tensors: Any, groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], list[Row]]]:
    """Yield the rows of each form of answer, checked, a portion at a time."""
    for place, group in enumerate(groups):
        keys, digests = tensors.get_tensor(f"keys.{place}"), tensors.get_tensor(f"sha256.{place}")
        answers = tensors.get_slice(f"answers.{place}")
        shape = json.dumps(group["shape"])
        if answers.get_shape() != [len(keys), *group["shape"]]:
            raise ValueError("its answers have another shape than described")
        for first in range(0, len(keys), PORTION):
            last = min(first + PORTION, len(keys))
            portion = np.ascontiguousarray(answers[first:last], dtype=DTYPES[group["dtype"]])
            rows = [
                (keys[index].tobytes().hex(), answer.tobytes(), group["dtype"], shape, digests[index].tobytes().hex())
                for index, answer in enumerate(portion, first)
            ]
            bad = next(damaged(rows), None)
            if bad is not None:
                raise ValueError(f"the answer {bad} is not what was written")
            yield group, rows
