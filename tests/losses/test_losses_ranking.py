"""Ranking distillation against values computed by hand."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedhelp_med.common.errors import InputError
from fedhelp_med.losses import (
    ForwardDistillationLoss,
    ListMLELoss,
    MarginRankingLoss,
    RankNetLoss,
    ranking_loss,
)

# The teacher's order: class 1, class 0, class 2.
STUDENT, TEACHER = torch.tensor([[0.5, 0.0, 0.2]]), torch.tensor([[0.0, 1.0, -1.0]])
LOSSES = [MarginRankingLoss(), MarginRankingLoss(top_k=2, margin=1.0), RankNetLoss(), ListMLELoss()]
IDS = ["margin", "margin-2", "ranknet", "listmle"]


def value_and_gradient(loss: nn.Module, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student = student.detach().clone().requires_grad_()
    value = loss(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach(), gradient


# Margin


def test_margin_by_hand() -> None:
    # Top class 1 at 0.0 against 0.5 and 0.2: 0.1 + 0.5 = 0.6 and 0.1 + 0.2 = 0.3; mean 0.45
    value, gradient = value_and_gradient(MarginRankingLoss(top_k=1, margin=0.1), STUDENT, TEACHER)
    assert value.item() == pytest.approx(0.45)
    # Two active pairs of weight 1/2: descent raises class 1 and lowers the classes that outrank it.
    torch.testing.assert_close(gradient, torch.tensor([[0.5, -1.0, 0.5]]))


def test_margin_with_two_top_classes_by_hand() -> None:
    # Classes 1 and 0 against 2: 0.1 - (0.0 - 0.2) = 0.3, and 0.1 - (0.5 - 0.2) < 0 is 0; mean 0.15
    value, gradient = value_and_gradient(MarginRankingLoss(top_k=2, margin=0.1), STUDENT, TEACHER)
    assert value.item() == pytest.approx(0.15)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.5, 0.5]]))


def test_margin_is_zero_when_the_student_agrees_by_more_than_the_margin() -> None:
    # 1.0 leads 0.8 and 0.3 by 0.2 and 0.7, both above 0.1. A reversed sign would give 0.3 and 0.8.
    value, gradient = value_and_gradient(MarginRankingLoss(), torch.tensor([[0.8, 1.0, 0.3]]), TEACHER)
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros(1, 3))


def test_margin_is_what_is_missing_when_the_student_agrees_by_less() -> None:
    # 1.0 leads 0.75 by 0.25 of the 0.5 asked for, and 0.0 by more: (0.25 + 0) / 2
    value, gradient = value_and_gradient(MarginRankingLoss(margin=0.5), torch.tensor([[0.75, 1.0, 0.0]]), TEACHER)
    assert value.item() == pytest.approx(0.125)
    torch.testing.assert_close(gradient, torch.tensor([[0.5, -0.5, 0.0]]))


def test_margin_grows_with_the_disagreement() -> None:
    loss = MarginRankingLoss()
    values = [loss(torch.tensor([[gap, 0.0]]), torch.tensor([[0.0, 1.0]])).item() for gap in (-1, 0, 1, 2)]
    assert values == pytest.approx([0, 0.1, 1.1, 2.1])


def test_margin_of_one_channel_by_hand() -> None:
    # The teacher says class 1 (z > 0), the student class 0 at z = -0.3: 0.1 - (-0.3 - 0) = 0.4
    value, gradient = value_and_gradient(MarginRankingLoss(), torch.tensor([[-0.3]]), torch.tensor([[0.7]]))
    assert value.item() == pytest.approx(0.4)
    assert gradient.item() == -1  # descent raises z
    value, gradient = value_and_gradient(MarginRankingLoss(), torch.tensor([[0.3]]), torch.tensor([[-0.7]]))
    assert value.item() == pytest.approx(0.4)
    assert gradient.item() == 1


def test_margin_ranks_at_each_position_by_hand() -> None:
    # Two positions: at the first the student agrees (0), at the second it is 1.0 wrong (1.1); mean 0.55
    student = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).view(1, 2, 2, 1)  # class x position
    teacher = torch.tensor([[9.0, 9.0], [3.0, 3.0]]).view(1, 2, 2, 1)
    assert MarginRankingLoss()(student, teacher).item() == pytest.approx(0.55)
    assert MarginRankingLoss()(student[..., None], teacher[..., None]).item() == pytest.approx(0.55)


def test_margin_leaves_tied_pairs_out() -> None:
    # Top class 0; class 1 ties with it, so only class 2 counts: 0.1 - (0 - 1) = 1.1
    student, teacher = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[5.0, 5.0, 1.0]])
    assert MarginRankingLoss()(student, teacher).item() == pytest.approx(1.1)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_margin_equals_a_double_loop(data: st.DataObject) -> None:
    classes = data.draw(st.integers(2, 6))
    top_k = data.draw(st.integers(1, classes - 1))
    margin = data.draw(st.floats(0, 2))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    student, teacher = torch.randn(2, 3, classes, generator=generator, dtype=torch.float64)
    total = 0.0
    for z, t in zip(student.tolist(), teacher.tolist(), strict=True):
        order = sorted(range(classes), key=lambda c: -t[c])
        total += sum(max(0, margin - (z[i] - z[j])) for i in order[:top_k] for j in order[top_k:])
    expected = total / (3 * top_k * (classes - top_k))
    assert MarginRankingLoss(top_k, margin)(student, teacher).item() == pytest.approx(expected)


@pytest.mark.parametrize(("top_k", "channels", "classes"), [(3, 3, 3), (5, 3, 3), (2, 2, 2), (2, 1, 2)])
def test_top_k_must_leave_a_class_to_rank_below(top_k: int, channels: int, classes: int) -> None:
    logits = torch.zeros(1, channels)
    message = f"top_k is {top_k} but the output has {classes} classes.*top_k <= {classes - 1}"
    with pytest.raises(ValueError, match=message) as caught:
        MarginRankingLoss(top_k)(logits, logits)
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize("top_k", [0, -1, 1.5])
def test_top_k_must_be_a_positive_whole_number(top_k: float) -> None:
    with pytest.raises(InputError, match=f"top_k is {top_k}"):
        MarginRankingLoss(top_k)  # type: ignore[arg-type]


@pytest.mark.parametrize("margin", [-0.1, math.inf, math.nan])
def test_a_negative_margin_is_refused(margin: float) -> None:
    with pytest.raises(InputError, match=f"margin is {margin}"):
        MarginRankingLoss(margin=margin)


# RankNet


def test_ranknet_by_hand() -> None:
    # 1 over 0: ln(1 + e^0.5) = 0.974077; 1 over 2: ln(1 + e^0.2) = 0.798139; 0 over 2: ln(1 + e^-0.3) = 0.554355
    value, gradient = value_and_gradient(RankNetLoss(), STUDENT, TEACHER)
    assert value.item() == pytest.approx((0.974077 + 0.798139 + 0.554355) / 3, abs=1e-6)
    # Each pair moves its two classes by a sigmoid: s(0.5) = 0.622459, s(0.2) = 0.549834, s(-0.3) = 0.425557
    expected = torch.tensor([[0.622459 - 0.425557, -0.622459 - 0.549834, 0.549834 + 0.425557]]) / 3
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=0)


def test_ranknet_leaves_tied_pairs_out_by_hand() -> None:
    # Classes 0 and 1 tie: 0 over 2 is softplus(-0.3) = 0.554355, 1 over 2 is softplus(0.2) = 0.798139
    value = RankNetLoss()(STUDENT, torch.tensor([[3.0, 3.0, -1.0]]))
    assert value.item() == pytest.approx((0.554355 + 0.798139) / 2, abs=1e-6)


def test_ranknet_of_one_channel_by_hand() -> None:
    # The teacher says class 1: softplus(-z) at z = -1 is ln(1 + e) = 1.313262
    value = RankNetLoss()(torch.tensor([[-1.0]]), torch.tensor([[0.01]]))
    assert value.item() == pytest.approx(1.313262, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(classes=st.integers(2, 6), levels=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_ranknet_equals_a_double_loop(classes: int, levels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student = 10 * torch.randn(3, classes, generator=generator, dtype=torch.float64)
    teacher = torch.randint(levels, (3, classes), generator=generator).double()  # often tied
    terms = [
        math.log1p(math.exp(-float(student[b, i] - student[b, j])))
        for b in range(3)
        for i, j in itertools.product(range(classes), repeat=2)
        if teacher[b, i] > teacher[b, j]
    ]
    expected = sum(terms) / max(len(terms), 1)
    assert RankNetLoss()(student, teacher).item() == pytest.approx(expected, rel=1e-12)


# ListMLE


def test_listmle_by_hand() -> None:
    # Strengths 3, 2, 1 and the order 2, 0, 1: 1/(3+2+1) * 3/(3+2) * 2/2 = 1/10
    student = torch.tensor([[3.0, 2.0, 1.0]]).log()
    assert ListMLELoss()(student, torch.tensor([[5.0, 4.0, 6.0]])).item() == pytest.approx(math.log(10))


def test_listmle_gradient_by_hand() -> None:
    # -log of e^z1 / (e^z0 + e^z1 + e^z2) * e^z0 / (e^z0 + e^z2) at z = 0: thirds, then halves
    _, gradient = value_and_gradient(ListMLELoss(), torch.zeros(1, 3), TEACHER)
    torch.testing.assert_close(gradient, torch.tensor([[1 / 3 - 1 / 2, 1 / 3 - 1, 1 / 3 + 1 / 2]]))


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_listmle_is_the_plackett_luce_probability_by_brute_force(classes: int) -> None:
    student = torch.randn(classes, dtype=torch.float64)
    strength = student.exp().tolist()
    total = 0.0
    for order in itertools.permutations(range(classes)):
        teacher = torch.empty(classes, dtype=torch.float64)
        teacher[list(order)] = torch.arange(classes, 0, -1, dtype=torch.float64)
        expected = math.prod(strength[c] / sum(strength[d] for d in order[i:]) for i, c in enumerate(order))
        probability = math.exp(-ListMLELoss()(student[None], teacher[None]).item())
        assert probability == pytest.approx(expected)
        total += probability
    assert total == pytest.approx(1)  # over all orders: a distribution, without a lost factor


def test_listmle_claims_no_order_of_tied_classes() -> None:
    # 0 and 1 tie above 2: one of them must beat 2, at equal strength ln 2; neither must beat the other
    assert ListMLELoss()(torch.zeros(1, 3), torch.tensor([[4.0, 4.0, 1.0]])).item() == pytest.approx(math.log(2))


def test_listmle_and_ranknet_are_one_loss_for_two_classes() -> None:
    student, teacher = torch.randn(2, 6, 2, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(ListMLELoss()(student, teacher), RankNetLoss()(student, teacher))


# Only the teacher's order matters


@settings(deadline=None, max_examples=60)
@given(st.data())
@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
def test_any_strictly_increasing_transform_of_the_teacher_changes_nothing(loss, data: st.DataObject) -> None:
    """Two teachers of the same order, ties included, whatever their logits: bit by bit the same result."""
    shape = (2, 3, 2, 2)
    size = math.prod(shape)
    ranks = data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    scale = st.lists(st.floats(-1e6, 1e6, width=32), min_size=5, max_size=5, unique=True).map(sorted)
    before, after = (
        torch.tensor([values[rank] for rank in ranks]).view(shape) for values in (data.draw(scale), data.draw(scale))
    )
    student = torch.randn(shape, generator=torch.Generator().manual_seed(sum(ranks)))
    for one, other in zip(
        value_and_gradient(loss, student, before), value_and_gradient(loss, student, after), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
def test_the_teachers_confidence_is_ignored_where_soft_labels_are_not(loss: nn.Module) -> None:
    def listnet(z: Tensor, teacher: Tensor) -> Tensor:
        return -(teacher.softmax(1) * z.log_softmax(1)).sum(1).mean()

    timid, certain = TEACHER / 10, TEACHER * 10
    assert torch.equal(loss(STUDENT, timid), loss(STUDENT, certain))
    for soft in (ForwardDistillationLoss(), listnet):
        assert abs(soft(STUDENT, certain) - soft(STUDENT, timid)) > 0.2


@pytest.mark.parametrize("loss", [LOSSES[0], *LOSSES[2:]], ids=[IDS[0], *IDS[2:]])
def test_one_channel_counts_by_its_sign(loss: nn.Module) -> None:
    student, teacher = torch.randn(2, 8, 1, 3, 3)
    assert torch.equal(loss(student, teacher), loss(student, teacher.sign() * 100))
    assert not torch.equal(loss(student, teacher), loss(student, -teacher))


@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
def test_a_teacher_that_ties_everything_says_nothing(loss: nn.Module) -> None:
    for shape in [(2, 3), (2, 3, 4, 4), (2, 3, 4, 4, 2)]:
        value, gradient = value_and_gradient(loss, torch.randn(shape), torch.full(shape, 0.7))
        assert value.item() == 0
        assert torch.equal(gradient, torch.zeros(shape))


@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
def test_gradient_raises_the_first_class_and_lowers_the_last(loss: nn.Module) -> None:
    student = torch.tensor([[0.0, -1.0, 1.0]])  # the reverse of the teacher's order 1, 0, 2
    value, gradient = value_and_gradient(loss, student, TEACHER)
    assert value > 0
    assert gradient[0, 1] < 0  # descent raises what the teacher prefers
    assert gradient[0, 2] > 0


@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
def test_classes_may_be_renamed(loss: nn.Module) -> None:
    student, teacher = torch.randn(2, 4, 5, dtype=torch.float64)
    order = torch.randperm(5)
    torch.testing.assert_close(loss(student[:, order], teacher[:, order]), loss(student, teacher))


# By name


@pytest.mark.parametrize(
    ("name", "kind"), [("margin", MarginRankingLoss), ("ranknet", RankNetLoss), ("listmle", ListMLELoss)]
)
def test_a_loss_is_chosen_by_name(name: str, kind: type[nn.Module]) -> None:
    assert type(ranking_loss(name)) is kind


def test_settings_reach_the_loss() -> None:
    loss = ranking_loss("margin", top_k=2, margin=0.5)
    assert (loss.top_k, loss.margin) == (2, 0.5)


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(InputError, match=r"'listnet'; choose one of margin, ranknet, listmle"):
        ranking_loss("listnet")


def test_a_setting_that_the_loss_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match=r"'ranknet' does not take the settings \{'margin': 0.1\}"):
        ranking_loss("ranknet", margin=0.1)
