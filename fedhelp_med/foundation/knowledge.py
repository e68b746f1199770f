"""The public images with what is known about them, as a bundle's configuration uses them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.datalist import Datalist, read_datalist
from fedhelp_med.foundation.coverage import answer_keys, choose_model, compare_labels, measure
from fedhelp_med.foundation.ledger import Ledger
from fedhelp_med.foundation.protocol import Described, Kind
from fedhelp_med.foundation.quality import Quality


class PublicKnowledge:
    """The items of a public datalist, each with a foundation model's answer, a label, or both.

    Args:
        datalist: the public datalist; its ``training`` items are taken.
        ledger: the ledger with a foundation model's answers. Without one, the labels are all that is known.
        model: which model of the ledger, as ``NAME`` or ``NAME VERSION``; needed if it has several.
        calibrate: divide the model's logits by the temperature that suits the public labels.
        follow_quality: weigh the model's knowledge by how good it is on the public labels.

    Attributes:
        items: MONAI items ``{"image": path, "label": ..., "knowledge": float32 array}``. ``label`` is there if the
            datalist has labels, ``knowledge`` (`K` or `K, W, H[, D]`) if there is a ledger.
        channels: K, the classes of the model, else of the public labels.
        classes: their names.
        spatial_size: `W, H[, D]` of the answers, to which the public images have to be resized; None without a ledger
            or where an answer is one vector per image.
        model_name: name and version of the model, None without a ledger.
        kind: what an answer is; an ``embedding`` has no classes.
        quality: of the model, where ``calibrate`` or ``follow_quality`` asks for it.
        trust: the factor of the weight of its knowledge, 0 to 1; 1 unless ``follow_quality`` is set.

    Raises:
        InputError: if images have no answer, the labels are not the model's classes, several models could be meant,
            there is nothing to learn from, or no label to calibrate or judge by.

    Example:
        In a bundle: ``"knowledge": {"_target_": "fedhelp_med.foundation.PublicKnowledge", "datalist": "...",
        "ledger": "..."}`` and ``"data": "$@knowledge.items"``.
    """

    def __init__(
        self,
        datalist: str | Path,
        ledger: str | Path | None = None,
        model: str | None = None,
        *,
        calibrate: bool = False,
        follow_quality: bool = False,
    ) -> None:
        public = read_datalist(Path(datalist))
        self.items = [_item(entry) for entry in public.splits["training"]]
        labelled = "label" in self.items[0]  # then all have one: a datalist's split is labelled whole or not at all
        self.classes = public.classes or tuple(map(str, range(public.class_count or 0)))
        self.model_name: str | None = None
        self.kind: Kind = "logits"
        self.quality: Quality | None = None
        self.trust = 1.0
        if ledger is not None:
            with Ledger(ledger, readonly=True) as book:
                chosen = choose_model(book, model)
                answers = _answers(book, chosen, [item["image"] for item in self.items], public)
            if labelled and chosen.kind != "embedding":
                compare_labels(public, chosen)
            if calibrate or follow_quality:
                self.quality = measure(public, chosen, zip(self.items, answers, strict=True))
                if calibrate:
                    answers = [answer / np.float32(self.quality.temperature) for answer in answers]
                if follow_quality:
                    self.trust = min(1.0, max(0.0, self.quality.score))
            for item, answer in zip(self.items, answers, strict=True):
                item["knowledge"] = answer
            self.classes = () if chosen.kind == "embedding" else chosen.classes
            self.model_name, self.kind = str(chosen), chosen.kind
        elif model is not None:
            raise InputError(f"the foundation model {model!r} is named without a ledger: give the ledger as well")
        elif not labelled:
            raise InputError(
                f"{public.path} has no labels and there is no ledger, so there is nothing to learn from: "
                "make a ledger with `fedhelp foundation acquire`, or add labels"
            )
        answer_shape = self.items[0]["knowledge"].shape if self.model_name else (len(self.classes),)
        self.channels, *spatial = map(int, answer_shape)
        self.spatial_size = tuple(spatial) or None

    def speaks_of(self, classes: Sequence[str]) -> bool:
        """Whether what is known is of these classes: the same names in the same order, in any case of letters.

        An embedding has no classes, and speaks of none.
        """
        return [name.lower() for name in self.classes] == [name.lower() for name in classes]


def _item(entry: Mapping[str, Any]) -> dict[str, Any]:
    item = {"image": str(entry["image"])}
    return {**item, "label": entry["label"]} if "label" in entry else item


def _answers(book: Ledger, model: Described, paths: Sequence[str], public: Datalist) -> list[NDArray[np.float32]]:
    keys = answer_keys(book, model, paths)
    missing = set(book.missing(keys.values()))
    if missing:
        count = sum(keys[path] in missing for path in paths)
        raise InputError(
            f"{count} of {len(paths)} public images of {public.path} have no answer of {model.name} {model.version} "
            f"in the ledger {book.path}: ask for them with `fedhelp foundation acquire`"
        )
    answers = book.answers(keys.values())
    return [answers[keys[path]].astype(np.float32) for path in paths]
