"""What a network found in each study of a site, as its run folder keeps it."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedhelp_med.report.statistics import Floats

DICE = "dice_"


def read_studies(path: Path) -> dict[str, Floats] | None:
    """Return the columns of ``study,label,p(CLASS)...`` or ``study,dice_CLASS...``; None where there is no file."""
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    table = np.array(lines, dtype=np.float64).reshape(-1, len(header))
    return dict(zip(header, table.T, strict=True))


def class_names(table: Mapping[str, Floats]) -> list[str]:
    """Return the classes of which a table has probabilities, or Dice scores."""
    return [
        name[2:-1] if name.startswith("p(") else name.removeprefix(DICE).replace("_", " ")
        for name in table
        if name.startswith(("p(", DICE))
    ]


def probabilities(table: Mapping[str, Floats]) -> Floats:
    """Return ``N, C``: the probability of each class in each study."""
    return np.stack([column for name, column in table.items() if name.startswith("p(")], 1)


def dice(table: Mapping[str, Floats]) -> Floats:
    """Return ``N, C``: the Dice score of each class in each study, NaN where it is not defined."""
    return np.stack([column for name, column in table.items() if name.startswith(DICE)], 1)


def confusion(table: Mapping[str, Floats]) -> Floats:
    """Return ``C, C``: how many studies of a class (row) were taken for which class (column)."""
    found = probabilities(table)
    counts = np.zeros((found.shape[1], found.shape[1]))
    np.add.at(counts, (table["label"].astype(int), found.argmax(1)), 1)
    return counts


def roc(table: Mapping[str, Floats], index: int, points: int = 100) -> Floats | None:
    """Return the ROC curve of a class against the rest.

    Args:
        table: with ``label`` and probabilities.
        index: of the class.
        points: at most so many are kept.

    Returns:
        Floats: ``2, P``, the false and the true positive rate from (0, 0) to (1, 1); None where one kind is missing.
    """
    found = probabilities(table)
    with np.errstate(divide="ignore"):  # log-odds keep the order of probabilities that were rounded to 1
        scores = np.log(found[:, index]) - np.log(np.delete(found, index, 1).sum(1))
    positive = table["label"] == index
    if positive.all() or not positive.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ends = np.append(scores[order][1:] != scores[order][:-1], True)  # studies of one score are passed together
    true, false = (np.cumsum(kind[order])[ends] for kind in (positive, ~positive))
    rates = np.stack([np.insert(false / false[-1], 0, 0), np.insert(true / true[-1], 0, 0)])
    kept = np.unique(np.linspace(0, rates.shape[1] - 1, points).round().astype(int))
    curve: Floats = rates[:, kept]
    return curve
