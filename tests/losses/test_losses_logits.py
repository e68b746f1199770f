"""What the losses ask of a pair of logit tensors."""

import pytest
import torch

from fedhelp_med.common.errors import InputError
from fedhelp_med.losses import ForwardDistillationLoss, as_categorical, check_pair, ranking_loss

LOSSES = [ForwardDistillationLoss(), ranking_loss("margin"), ranking_loss("ranknet"), ranking_loss("listmle")]


def name_of(loss: torch.nn.Module) -> str:
    return type(loss).__name__


@pytest.mark.parametrize("spatial", [(), (4, 5), (4, 5, 6)], ids=["flat", "2-D", "3-D"])
def test_one_channel_becomes_the_two_logits_of_its_sigmoid(spatial: tuple[int, ...]) -> None:
    z = torch.randn(2, 1, *spatial)
    two = as_categorical(z)
    assert two.shape == (2, 2, *spatial)
    assert torch.equal(two[:, 0], torch.zeros_like(z[:, 0]))
    assert torch.equal(two[:, 1], z[:, 0])
    torch.testing.assert_close(two.softmax(dim=1)[:, 1], z[:, 0].sigmoid())


@pytest.mark.parametrize("channels", [2, 3])
def test_several_channels_are_left_alone(channels: int) -> None:
    logits = torch.randn(2, channels, 4)
    assert as_categorical(logits) is logits


def test_as_categorical_passes_the_gradient_to_z() -> None:
    z = torch.randn(3, 1, dtype=torch.float64, requires_grad=True)
    as_categorical(z)[:, 1].sum().backward()
    assert z.grad is not None
    assert torch.equal(z.grad, torch.ones_like(z))


def test_squeezed_logits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4,\).*channel dimension"):
        as_categorical(torch.zeros(4))


def test_check_pair_accepts_equal_shapes() -> None:
    check_pair(torch.zeros(2, 3, 4), torch.ones(2, 3, 4))


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((2, 3), (1, 3)),  # each of these would broadcast
        ((2, 1), (2, 3)),
        ((2, 3, 4, 4), (2, 3, 1, 1)),
        ((2, 3), (2, 4)),
    ],
)
@pytest.mark.parametrize("check", [check_pair, *LOSSES], ids=["check_pair", *map(name_of, LOSSES)])
def test_different_shapes_are_refused_with_both_named(check, student, teacher) -> None:
    with pytest.raises(ValueError, match="shape") as caught:
        check(torch.zeros(student), torch.zeros(teacher))
    assert str(student) in str(caught.value)
    assert str(teacher) in str(caught.value)
    assert isinstance(caught.value, InputError)  # so that the command line shows the one line, no traceback


# What holds for every loss.


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_dense_output_that_is_constant_over_positions_has_the_flat_value(loss, channels: int) -> None:
    student, teacher = torch.randn(2, 8, channels, dtype=torch.float64)
    flat = loss(student, teacher)
    assert flat > 0
    for spatial in [(5, 4), (5, 4, 3)]:
        ones = torch.ones(1, 1, *spatial, dtype=torch.float64)
        shape = (8, channels, *[1] * len(spatial))
        dense = loss(student.view(shape) * ones, teacher.view(shape) * ones)
        assert dense.shape == ()
        torch.testing.assert_close(dense, flat)


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
@pytest.mark.parametrize("spatial", [(2, 3), (2, 3, 2)], ids=["2-D", "3-D"])
def test_dense_output_is_many_flat_outputs(loss, spatial: tuple[int, ...]) -> None:
    """Classes are compared at one position; no channel is mistaken for an axis of space."""
    student, teacher = torch.randn(2, 2, 3, *spatial, dtype=torch.float64)
    expected = loss(student.movedim(1, -1).reshape(-1, 3), teacher.movedim(1, -1).reshape(-1, 3))
    torch.testing.assert_close(loss(student, teacher), expected)


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
@pytest.mark.parametrize("spatial", [(), (3, 4), (3, 4, 2)], ids=["flat", "2-D", "3-D"])
def test_one_channel_equals_its_two_logits_and_is_not_zero(loss, spatial: tuple[int, ...]) -> None:
    student, teacher = torch.randn(2, 8, 1, *spatial)
    value = loss(student, teacher)
    assert value > 0
    assert torch.equal(value, loss(as_categorical(student), as_categorical(teacher)))


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_teacher_gets_no_gradient(loss, channels: int) -> None:
    student = torch.randn(4, channels, requires_grad=True)
    teacher = torch.randn(4, channels, requires_grad=True)
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
@pytest.mark.parametrize("shape", [(3, 1), (2, 4), (1, 3, 2, 2), (1, 1, 2, 2, 2)], ids=str)
def test_gradient_is_that_of_the_value(loss, shape: tuple[int, ...]) -> None:
    student = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher), (student,))


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(loss, half: torch.dtype) -> None:
    student, teacher = torch.randn(2, 4, 3, 8, 8).to(half)
    student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(student.float(), teacher.float()))
    value.backward()
    assert student.grad is not None
    assert student.grad.dtype == half


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
def test_extreme_logits_give_finite_values_and_gradients(loss) -> None:
    """A log of a probability would be -inf here."""
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = loss(student, torch.tensor([[-1e4, 1e4, 0.0]]))
    value.backward()
    assert value.isfinite()
    assert value > 100
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_descent_raises_what_the_teacher_prefers(loss, channels: int) -> None:
    """A reversed sign anywhere would drive the student away from the teacher."""
    teacher = torch.tensor([[1.0], [-1.0]]) if channels == 1 else torch.eye(channels)[:2]
    student = -teacher.clone()
    student.requires_grad_()
    start = loss(student, teacher).item()
    optimizer = torch.optim.SGD([student], lr=0.5)
    for _ in range(50):
        optimizer.zero_grad()
        loss(student, teacher).backward()
        optimizer.step()
    assert loss(student, teacher).item() < start / 2
    agreed = as_categorical(student).argmax(dim=1) == as_categorical(teacher).argmax(dim=1)
    assert agreed.all()
