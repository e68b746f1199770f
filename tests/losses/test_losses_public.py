"""What public images teach: soft labels, labels, or both."""

import math

import pytest
import torch
from torch import Tensor

from fedhelp_med.losses import ForwardDistillationLoss, LogitsError, public_loss, sum_of_terms

LOGITS, TEACHER, LABELS = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 2, 1, 1])


def test_both_terms_by_hand() -> None:
    # p = (1/2, 1/2), teacher (1/4, 3/4): KL = 1/4 log 1/2 + 3/4 log 3/2; the cross-entropy is log 2
    loss = public_loss(torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]]), torch.tensor([1]), weight=0.5)
    divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert loss.item() == pytest.approx(0.5 * divergence + math.log(2))


@pytest.mark.parametrize(
    ("teacher", "labels", "weight", "expected"),
    [
        (TEACHER, None, 2.0, 2 * ForwardDistillationLoss()(LOGITS, TEACHER)),
        (None, LABELS, 1.0, torch.nn.functional.cross_entropy(LOGITS, LABELS)),
        (TEACHER, LABELS, 0.0, torch.nn.functional.cross_entropy(LOGITS, LABELS)),
    ],
    ids=["a teacher alone", "labels alone", "a teacher who is not asked"],
)
def test_either_term_may_be_absent(
    teacher: Tensor | None, labels: Tensor | None, weight: float, expected: Tensor
) -> None:
    torch.testing.assert_close(public_loss(LOGITS, teacher, labels, weight), expected)


@pytest.mark.parametrize("spatial", [(), (3, 2), (2, 3, 2)])
def test_one_channel_is_two_classes(spatial: tuple[int, ...]) -> None:
    z, teacher = torch.randn(4, 1, *spatial), torch.randn(4, 2, *spatial)
    labels = torch.randint(0, 2, (4, 1, *spatial) if spatial else (4,))
    both = torch.cat([torch.zeros_like(z), z], 1)
    torch.testing.assert_close(public_loss(z, teacher, labels), public_loss(both, teacher, labels))


def test_absent_terms_do_not_count() -> None:
    one, other = torch.tensor(2.0), torch.tensor(0.5)
    assert sum_of_terms(one, None, other).item() == 2.5
    assert sum_of_terms(None, other).item() == 0.5
    with pytest.raises(LogitsError, match="it has no embedding to learn from"):
        sum_of_terms(None, None, absent="no embedding")


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(LogitsError, match="neither a label nor an answer"):
        public_loss(LOGITS, TEACHER, None, weight=0.0)
