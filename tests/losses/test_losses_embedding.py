"""The distance of two embeddings, written out."""

import pytest
import torch
from torch import nn

from fedhelp_med.losses import EmbeddingDistillationLoss


def test_cosine_by_hand():
    student = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0]])
    teacher = torch.tensor([[4.0, 3.0], [0.0, 7.0], [-1.0, 0.0]])
    assert float(EmbeddingDistillationLoss()(student, teacher)) == pytest.approx(((1 - 24 / 25) + 1 + 2) / 3)


def test_weights_by_hand():
    student = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0]])
    teacher = torch.tensor([[4.0, 3.0], [0.0, 7.0], [-1.0, 0.0]])
    weights = torch.tensor([1.0, 0.5, 2.0])
    loss = EmbeddingDistillationLoss()
    assert float(loss(student, teacher, weights)) == pytest.approx((1 / 25 + 0.5 + 2 * 2) / 3)
    torch.testing.assert_close(loss(student, teacher, torch.ones(3)), loss(student, teacher))


def test_the_length_of_an_embedding_does_not_matter():
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    loss = EmbeddingDistillationLoss()
    torch.testing.assert_close(loss(student, teacher), loss(student, 9 * teacher))


def test_it_teaches_the_student_alone():
    student, teacher = (nn.Parameter(torch.randn(8, 4)) for _ in range(2))
    loss = EmbeddingDistillationLoss()
    optimizer = torch.optim.Adam([student, teacher], lr=0.05)
    before = loss(student, teacher)
    before.backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
    for _ in range(200):
        optimizer.zero_grad()
        loss(student, teacher).backward()
        optimizer.step()
    assert loss(student, teacher) < 0.05 * before


def test_half_precision_and_a_zero_vector():
    loss = EmbeddingDistillationLoss()(torch.zeros(2, 3, dtype=torch.float16), torch.randn(2, 3))
    assert loss.dtype == torch.float32 and float(loss) == 1


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        EmbeddingDistillationLoss()(torch.randn(2, 3), torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"weights have the shape \(1,\)"):
        EmbeddingDistillationLoss()(torch.randn(2, 3), torch.randn(2, 3), torch.ones(1))
