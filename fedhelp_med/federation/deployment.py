"""Which network a site deploys: the method's default, unless the site's own validation studies say otherwise.

A federation must not harm a site. So every site compares the default with each network that it has, on its own
validation split, and leaves the default only for one that is better by more than one standard error of the difference.
The testing split is never looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedhelp_med.metrics import one_against_rest_auc

DRAWS = 500
"""Bootstrap resamples of the validation split's patients."""

LEAST = 4
"""Of fewer patients a standard error says nothing, and a resample repeats the same few."""

LEAST_OF_CLASS = 2
"""The same for the patients of each class: one alone would decide."""


@dataclass(frozen=True)
class Candidate:
    """One or several networks, whose probabilities are averaged, and what they found in the validation studies.

    Args:
        networks: their names.
        studies: ``N, columns``, as ``StudyResults`` collects them.
    """

    networks: tuple[str, ...]
    studies: Tensor

    @property
    def name(self) -> str:
        """``surrogate + global``."""
        return " + ".join(self.networks)


@dataclass(frozen=True)
class Choice:
    """What a site deploys and why.

    Args:
        networks: the names of the chosen networks.
        default: whether it is the method's default.
        evidence: by candidate, its validation score, and its difference to the default with the standard error.
    """

    networks: tuple[str, ...]
    default: bool
    evidence: Mapping[str, Mapping[str, float]]


def choose(
    columns: Sequence[str],
    default: Candidate,
    others: Sequence[Candidate],
    seed: int,
    patients: Sequence[int] | None = None,
) -> Choice:
    """Return the default, or the best of the others when it is better by more than one standard error.

    The standard error is over patients, each with all of their studies. Fewer than ``LEAST`` patients, or
    ``LEAST_OF_CLASS`` of a class, decide nothing.

    Args:
        columns: of the studies' tables.
        default: the method's rule.
        others: what else the site has.
        seed: of the bootstrap, which draws the same patients for all candidates.
        patients: the number of each study's patient, from 0; without it every study is a patient of its own.
    """
    of_study = torch.tensor(range(len(default.studies)) if patients is None else patients)
    count = int(of_study.max()) + 1 if len(of_study) else 0
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(count, (DRAWS, count), generator=generator)
    weights = torch.zeros(DRAWS + 1, count, dtype=torch.float64)
    weights[0] = 1  # the patients themselves, then the resamples
    weights[1:].scatter_add_(1, picks, torch.ones_like(picks, dtype=torch.float64))
    weights = weights[:, of_study]
    reference = scores(columns, default.studies, weights)
    enough = _enough(columns, default.studies, of_study)
    evidence: dict[str, dict[str, float]] = {default.name: {"score": float(reference[0])}}
    best, best_gain = default, 0.0
    for other in others:
        found = scores(columns, other.studies, weights)
        gain, drawn = float(found[0] - reference[0]), (found - reference)[1:]
        drawn = drawn[torch.isfinite(drawn)]  # a resample may lack a class
        error = float(drawn.std()) if enough and len(drawn) > 1 else float("inf")
        evidence[other.name] = {"score": float(found[0]), "difference": gain, "standard_error": error}
        if gain > error and gain > best_gain:
            best, best_gain = other, gain
    return Choice(best.networks, best is default, evidence)


def _enough(columns: Sequence[str], studies: Tensor, patients: Tensor) -> bool:
    if len(set(patients.tolist())) < LEAST:
        return False
    if columns[0] != "label":
        return True
    labels = studies[:, 0]
    return all(len(set(patients[labels == label].tolist())) >= LEAST_OF_CLASS for label in set(labels.tolist()))


def scores(columns: Sequence[str], studies: Tensor, weights: Tensor) -> Tensor:
    """Return the score of a table of studies under each weighting of them.

    Args:
        columns: ``label, p(class), ...`` gives the area under the ROC curve (mean of one-against-rest over the classes
            for more than two); otherwise the mean over the columns of their means without NaN, e.g. Dice.
        studies: ``N, columns``.
        weights: ``W, N``, not negative.

    Returns:
        Tensor: ``W``; NaN where a weighting leaves no pair to compare.
    """
    studies = studies.double()
    if columns[0] != "label":
        measured = (~studies.isnan()).double()
        return (weights @ studies.nan_to_num() / (weights @ measured)).nanmean(1)
    probabilities, labels = studies[:, 1:].numpy(), studies[:, 0].numpy()
    return torch.from_numpy(one_against_rest_auc(probabilities, labels, weights.numpy()))
