"""Backward distillation: a weak teacher says which classes are likelier than others, not how likely.

Each loss uses the teacher's logits in comparisons only, so any strictly increasing transform of them (another
temperature, another confidence) leaves value and gradient exactly as they were. ListNet, whose targets are the
teacher's softmax, is therefore not here: it is soft-label distillation. A tie says nothing: no loss claims an
order that the teacher does not have, and a teacher that ties all classes gives exactly 0.

Classes are ranked for each image and, in dense output, at each position. A single sigmoid channel z is ranked as
the two logits (0, z): what counts is its sign.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedhelp_med.common.errors import InputError
from fedhelp_med.losses.logits import LogitsError, prepare_pair


class MarginRankingLoss(nn.Module):
    """The teacher's top-k classes must lead the rest by a margin: mean relu(m - (z[top] - z[rest])).

    The mean is over the k (C - k) pairs, the images and the positions; pairs that the teacher ties are left out.
    Where the student's top already leads by more than m, the loss and its gradient are 0. This is the default
    proxy-to-large loss of FedHelp (Wang et al., arXiv 2412.19654).

    Args:
        top_k: k, at least 1 and below the number of classes; 1 for two classes.
        margin: m >= 0, in units of the student's logits.

    Raises:
        InputError: if either is out of range.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.3, 0.2]])
        >>> float(MarginRankingLoss()(student, teacher))  # they agree
        0.0
    """

    def __init__(self, top_k: int = 1, margin: float = 0.1) -> None:
        super().__init__()
        if not isinstance(top_k, int) or top_k < 1:
            raise InputError(f"top_k is {top_k}; it must be a whole number of classes, 1 or more")
        if not (margin >= 0 and math.isfinite(margin)):
            raise InputError(f"margin is {margin}; it must be a number of 0 or more, such as 0.1")
        self.top_k = top_k
        self.margin = margin

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, trust: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar.

        Args:
            student_logits: ``B, C[, H, W[, D]]``; one channel counts as the two logits (0, z).
            teacher_logits: the same shape.
            trust: weights ``B, 1[, H, W[, D]]`` of what is averaged; None is 1 everywhere.

        Raises:
            LogitsError: (a ``ValueError``) if the shapes differ or there are no more than ``top_k`` classes.
        """
        student, teacher = prepare_pair(student_logits, teacher_logits)
        classes = student.shape[1]
        if self.top_k >= classes:
            raise LogitsError(
                f"top_k is {self.top_k} but the output has {classes} classes, so no class is left to rank below "
                f"them; choose 1 <= top_k <= {classes - 1}"
            )
        values, top = teacher.topk(self.top_k, dim=1)
        rest = teacher < values[:, -1:]  # strictly: neither a top class nor one tied with the last of them
        total = student.new_zeros(())
        for place in range(self.top_k):  # not one tensor of all pairs, which would be k times the output
            lead = student.gather(1, top[:, place : place + 1]) - student
            total = total + _weighted(functional.relu(self.margin - lead) * rest, trust).sum()
        return total / (self.top_k * rest.sum()).clamp(min=1)


class RankNetLoss(nn.Module):
    """Every pair of classes in the teacher's order: mean softplus(-(z_i - z_j)) where the teacher has i over j.

    The mean is over the pairs that the teacher orders strictly, in all images and positions. Time and memory grow
    with the C (C - 1) / 2 pairs; for dense output with many classes prefer the margin loss.

    Burges et al., "Learning to rank using gradient descent", ICML 2005, with certain targets.
    """

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, trust: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar.

        Args:
            student_logits: ``B, C[, H, W[, D]]``; one channel counts as the two logits (0, z).
            teacher_logits: the same shape.
            trust: weights ``B, 1[, H, W[, D]]`` of what is averaged; None is 1 everywhere.

        Raises:
            LogitsError: (a ``ValueError``) if the shapes differ or have no channel dimension.
        """
        student, teacher = prepare_pair(student_logits, teacher_logits)
        total = student.new_zeros(())
        pairs = torch.zeros((), dtype=torch.int64, device=student.device)
        for i in range(student.shape[1] - 1):  # class i with every later class
            one, others = teacher[:, i : i + 1], teacher[:, i + 1 :]
            order = (one > others).to(student.dtype) - (one < others).to(student.dtype)
            lead = order * (student[:, i : i + 1] - student[:, i + 1 :])
            ordered = order != 0
            # softplus(-x) = -logsigmoid(x)
            total = total - _weighted(functional.logsigmoid(lead) * ordered, trust).sum()
            pairs = pairs + ordered.sum()
        return total / pairs.clamp(min=1)


class ListMLELoss(nn.Module):
    r"""The teacher's whole order as one event: -log of its Plackett-Luce probability under the student.

    With the classes in the teacher's order, best first,
    :math:`-\log P = \sum_i \left( \log \sum_{j \ge i} \exp z_j - z_i \right)`: each class must win against all
    that come after it. Averaged over images and positions. A class that the teacher ties with the next one has no
    such win to claim, and its factor is left out.

    Xia et al., "Listwise approach to learning to rank: theory and algorithm", ICML 2008.
    """

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, trust: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar.

        Args:
            student_logits: ``B, C[, H, W[, D]]``; one channel counts as the two logits (0, z).
            teacher_logits: the same shape.
            trust: weights ``B, 1[, H, W[, D]]`` of what is averaged; None is 1 everywhere.

        Raises:
            LogitsError: (a ``ValueError``) if the shapes differ or have no channel dimension.
        """
        student, teacher = prepare_pair(student_logits, teacher_logits)
        teacher, worst_first = teacher.sort(dim=1, stable=True)
        ranked = student.gather(1, worst_first)
        # Worst first, the classes that come after a class are those that precede it: a cumulative sum.
        surprise = torch.logcumsumexp(ranked, dim=1)[:, 1:] - ranked[:, 1:]
        wins = teacher[:, 1:] > teacher[:, :-1]
        return _weighted(surprise * wins, trust).sum(dim=1).mean()


def _weighted(terms: Tensor, trust: Tensor | None) -> Tensor:
    return terms if trust is None else terms * trust


_RANKING_LOSSES: dict[str, type[nn.Module]] = {
    "margin": MarginRankingLoss,
    "ranknet": RankNetLoss,
    "listmle": ListMLELoss,
}


def ranking_loss(name: str, **settings: Any) -> nn.Module:
    """Return the ranking loss of that name, as a configuration names it.

    Args:
        name: ``margin``, ``ranknet`` or ``listmle``.
        settings: passed to the loss: ``top_k`` and ``margin`` for ``margin``, none for the others.

    Raises:
        InputError: if the name is unknown, or the loss has no such setting.

    Example:
        >>> ranking_loss("margin", top_k=2).top_k
        2
    """
    if name not in _RANKING_LOSSES:
        raise InputError(f"ranking loss is {name!r}; choose one of {', '.join(_RANKING_LOSSES)}")
    try:
        return _RANKING_LOSSES[name](**settings)
    except TypeError as error:
        raise InputError(
            f"ranking loss {name!r} does not take the settings {settings}; "
            "'margin' takes top_k and margin, the others none"
        ) from error
