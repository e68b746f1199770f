"""How much of a public set a ledger knows, and how good its model is there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.datalist import Datalist, read_datalist
from fedhelp_med.foundation.addresses import content_key
from fedhelp_med.foundation.ledger import Ledger
from fedhelp_med.foundation.masks import mask_of_size
from fedhelp_med.foundation.protocol import Described, ModelDescription
from fedhelp_med.foundation.quality import Quality, class_quality, mask_quality


@dataclass(frozen=True)
class Coverage:
    """What a ledger knows of a public set.

    Attributes:
        model: name and version.
        images: of the public set.
        answered: those with an answer.
        quality: of the model on the answered images; None where it cannot be told.
        reason: why it cannot.
    """

    model: str
    images: int
    answered: int
    quality: Quality | None
    reason: str


def cover(datalist: Path, ledger: Path, model: str | None = None) -> Coverage:
    """Compare a public datalist with a ledger; neither is changed.

    Args:
        datalist: the public datalist.
        ledger: the ledger.
        model: which model of the ledger, as ``NAME`` or ``NAME VERSION``; needed if it has several.

    Raises:
        InputError: if one of them cannot be read, or several models could be meant.
    """
    public = read_datalist(datalist)
    items = public.splits["training"]
    with Ledger(ledger, readonly=True) as book:
        chosen = choose_model(book, model)
        keys = answer_keys(book, chosen, [item["image"] for item in items])
        missing = set(book.missing(keys.values()))
        known = [item for item in items if keys[item["image"]] not in missing]
        pairs = ((item, book.answers([keys[item["image"]]])[keys[item["image"]]]) for item in known)
        quality, reason = None, "" if known else "no image has an answer"
        if known:
            try:
                quality = measure(public, chosen, pairs)
            except InputError as error:
                reason = str(error)
    return Coverage(str(chosen), len(items), len(known), quality, reason)


def choose_model(book: Ledger, wanted: str | None) -> ModelDescription:
    """Return the one model of a ledger that is meant.

    Raises:
        InputError: if there is none, or several could be meant.
    """
    models = book.models()
    chosen = [model for model in models if wanted in (None, model.name, str(model))]
    if len(chosen) == 1:
        return chosen[0]
    if not models:
        raise InputError(f"the ledger {book.path} has no answers yet: ask with `fedhelp foundation acquire`")
    names = ", ".join(map(str, models))
    if wanted is None or chosen:
        raise InputError(f"the ledger {book.path} has the answers of several models ({names}): choose one by `model`")
    raise InputError(f"the ledger {book.path} has no model {wanted!r}: it has {names}")


def answer_keys(book: Ledger, model: Described, paths: Sequence[str]) -> dict[str, str]:
    """Return the keys of images by path: remembered ones, else from their pixels."""
    keys = book.recall(model, paths)
    for path in paths:
        if path not in keys:
            keys[path] = content_key(model.input.preprocess(path), model)
    return keys


def compare_labels(public: Datalist, model: Described) -> None:
    """Refuse labels of other classes than the model's: one head cannot learn both.

    Raises:
        InputError: naming both.
    """
    if public.classes is None and (public.class_count or 0) <= len(model.classes):
        return
    if public.classes != model.classes:
        theirs = ", ".join(public.classes) if public.classes else f"0 to {(public.class_count or 0) - 1}"
        raise InputError(
            f"{public.path} has the classes {theirs}, but {model.name} answers for {', '.join(model.classes)}: "
            "give both the same names in the same order, or leave the labels out"
        )


def measure(
    public: Datalist, model: ModelDescription, pairs: Iterable[tuple[Mapping[str, Any], NDArray[Any]]]
) -> Quality:
    """Measure a model on labelled images, by items of the public datalist and the answers to them.

    Raises:
        InputError: where the labels do not allow it.
    """
    if model.kind == "embedding":
        raise InputError(f"{model} answers with an embedding, which has no classes to compare with labels")
    if not any("label" in item for item in public.splits["training"]):
        raise InputError(f"{public.path} has no labels, so how good {model} is there cannot be told")
    compare_labels(public, model)
    if public.is_segmentation != (model.kind == "mask logits"):
        theirs = "masks" if public.is_segmentation else "class indices"
        raise InputError(f"{public.path} has {theirs}, but {model} answers with {model.kind}")
    if model.kind == "mask logits":
        classes = max(2, len(model.classes))
        return mask_quality(
            (torch.tensor(answer), mask_of_size(item["label"], answer.shape[1:], classes)) for item, answer in pairs
        )
    answers, labels = zip(*((answer, item["label"]) for item, answer in pairs), strict=True)
    return class_quality(torch.from_numpy(np.stack(answers)), torch.tensor(labels))
