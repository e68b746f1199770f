"""Soft-label distillation against values computed by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_med.common.errors import InputError
from fedhelp_med.losses import ForwardDistillationLoss

LN2, LN3 = math.log(2), math.log(3)
# Teacher (3/4, 1/4), student (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.304099 - 0.173287 = 0.130812
TEACHER, STUDENT, KL = torch.tensor([[LN3, 0.0]]), torch.tensor([[0.0, 0.0]]), 0.130812


def test_value_by_hand() -> None:
    assert ForwardDistillationLoss()(STUDENT, TEACHER).item() == pytest.approx(KL, abs=1e-6)


def test_three_classes_by_hand() -> None:
    # (1/2, 1/4, 1/4) against thirds: 1/2 ln(3/2) + 2 * 1/4 ln(3/4) = 0.202733 - 0.143841 = 0.058892
    value = ForwardDistillationLoss()(torch.zeros(1, 3), torch.tensor([[LN2, 0.0, 0.0]]))
    assert value.item() == pytest.approx(0.058892, abs=1e-6)


def test_the_direction_is_teacher_to_student() -> None:
    # Exchanged: 1/2 ln(2/3) + 1/2 ln 2 = -0.202733 + 0.346574 = 0.143841, not 0.130812
    assert ForwardDistillationLoss()(TEACHER, STUDENT).item() == pytest.approx(0.143841, abs=1e-6)


def test_the_sum_is_over_classes_and_the_mean_over_images() -> None:
    """KLDivLoss() divides by the classes as well: 1/C of the intended value."""
    loss = ForwardDistillationLoss()
    for classes in (2, 5):
        student, teacher = torch.randn(2, 6, classes, dtype=torch.float64)
        p, q = teacher.softmax(1), student.softmax(1)
        by_image = [sum(p[b, c] * (p[b, c] / q[b, c]).log() for c in range(classes)) for b in range(6)]
        torch.testing.assert_close(loss(student, teacher), sum(by_image) / 6)
        trap = torch.nn.functional.kl_div(q.log(), p, reduction="none").mean()  # what KLDivLoss() returns
        torch.testing.assert_close(loss(student, teacher), classes * trap)


def test_dense_output_is_not_height_times_width_too_large() -> None:
    spatial = (7, 5)
    student, teacher = (z.view(1, 2, 1, 1).expand(1, 2, *spatial) for z in (STUDENT, TEACHER))
    assert ForwardDistillationLoss()(student, teacher).item() == pytest.approx(KL, abs=1e-6)
    trap = torch.nn.functional.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
    assert trap.item() == pytest.approx(35 * KL, abs=1e-4)


def test_one_channel_is_the_bernoulli_divergence_by_hand() -> None:
    # sigmoid(ln 3) = 3/4 and sigmoid(0) = 1/2: the KL above. As a softmax of one channel it would be 0.
    value = ForwardDistillationLoss()(torch.tensor([[0.0]]), torch.tensor([[LN3]]))
    assert value.item() == pytest.approx(KL, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_zero_with_zero_gradient_when_student_equals_teacher(channels: int, temperature: float) -> None:
    teacher = torch.randn(2, channels, 3, 4, 2)
    student = teacher.clone().requires_grad_()
    value = ForwardDistillationLoss(temperature)(student, teacher)
    value.backward()
    assert value.item() == 0
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-6, rtol=0)


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64)
    loss = ForwardDistillationLoss()
    torch.testing.assert_close(loss(student + 3, teacher - 5), loss(student, teacher))


# Temperature


def test_value_has_the_factor_t_squared() -> None:
    # At T = 2 the logits (2 ln 3, 0) have the soft label (3/4, 1/4): 2^2 * 0.130812 = 0.523248
    assert ForwardDistillationLoss(2.0)(STUDENT, 2 * TEACHER).item() == pytest.approx(0.523248, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_gradient_is_t_times_the_difference_of_probabilities(temperature: float) -> None:
    # d/dz of T^2 KL is T^2 * 1/T * (p_s - p_t) = T (1/2 - 3/4, 1/2 - 1/4)
    student = STUDENT.clone().requires_grad_()
    ForwardDistillationLoss(temperature)(student, temperature * TEACHER).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, temperature * torch.tensor([[-0.25, 0.25]]))


def test_a_high_temperature_compares_logits() -> None:
    # T -> inf: 1/(2C) * sum of squared (centred) logit differences; (1, 0, -1): (1 + 0 + 1) / 6 = 1/3
    student = torch.tensor([[0.2, 0.5, -0.3]], dtype=torch.float64)
    teacher = student + torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    assert ForwardDistillationLoss(1e3)(student, teacher).item() == pytest.approx(1 / 3, abs=1e-3)


def test_a_low_temperature_is_finite_and_looks_at_the_best_class_only() -> None:
    # T -> 0: T * (gap of the student's best class over the teacher's) = 0.001 * (1 - 0)
    student = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = ForwardDistillationLoss(1e-3)
    value = loss(student, torch.tensor([[0.0, 1.0]]))
    value.backward()
    assert value.item() == pytest.approx(1e-3, rel=1e-4)
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert loss(student, torch.tensor([[9.0, 5.0]])).item() == 0  # the same best class


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(InputError, match=f"temperature is {temperature}.*positive"):
        ForwardDistillationLoss(temperature)


logit = st.floats(-50, 50)


@settings(deadline=None, max_examples=50)
@given(z=st.lists(st.tuples(logit, logit), min_size=1, max_size=6), temperature=st.floats(0.1, 20))
def test_never_negative(z: list[tuple[float, float]], temperature: float) -> None:
    student, teacher = torch.tensor(z, dtype=torch.float64).T[:, None]
    assert ForwardDistillationLoss(temperature)(student, teacher) >= -1e-9


def test_the_teachers_precision_does_not_decide_the_losss() -> None:
    value = ForwardDistillationLoss()(STUDENT, TEACHER.double())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(KL, abs=1e-6)


# Weights


def test_images_are_weighed_by_hand() -> None:
    # The same pair twice, and one image where student and teacher agree: (2 KL + 0.5 KL + 0) / 3
    student, teacher = torch.cat([STUDENT] * 3), torch.cat([TEACHER, TEACHER, STUDENT])
    value = ForwardDistillationLoss()(student, teacher, torch.tensor([2.0, 0.5, 9.0]))
    assert value.item() == pytest.approx(2.5 / 3 * KL, abs=1e-6)


def test_positions_are_weighed_by_hand() -> None:
    # Four positions at T = 2, of which the weights leave one and a half: 2^2 * 1.5 / 4 * KL
    student, teacher = (z.view(1, 2, 1, 1).expand(1, 2, 2, 2) for z in (STUDENT, 2 * TEACHER))
    value = ForwardDistillationLoss(2.0)(student, teacher, torch.tensor([[[1.0, 0.5], [0.0, 0.0]]]))
    assert value.item() == pytest.approx(4 * 1.5 / 4 * KL, abs=1e-6)


def test_an_images_weight_is_that_of_its_positions() -> None:
    student, teacher = torch.randn(2, 3, 4, 5, 6, 2)
    weights = torch.rand(3)
    positions = weights.view(3, 1, 1, 1).expand(3, 5, 6, 2)
    loss = ForwardDistillationLoss()
    torch.testing.assert_close(loss(student, teacher, weights), loss(student, teacher, positions))


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 7)])
def test_weights_of_one_are_none(shape: tuple[int, ...]) -> None:
    student, teacher = torch.randn(2, *shape)
    loss = ForwardDistillationLoss()
    ones = torch.ones(shape[0], *shape[2:])
    assert loss(student, teacher, ones).item() == loss(student, teacher).item()


@pytest.mark.parametrize("shape", [(1,), (4,), (3, 1), (3, 6, 7)])
def test_weights_that_would_be_broadcast_are_refused(shape: tuple[int, ...]) -> None:
    student, teacher = torch.randn(2, 3, 5, 6)
    with pytest.raises(InputError, match="the weights have the shape"):
        ForwardDistillationLoss()(student, teacher, torch.ones(shape))
