"""Labels in the form of torch's cross-entropy."""

import pytest
import torch

from fedhelp_med.losses import class_indices


@pytest.mark.parametrize(
    ("labels", "logits", "expected"),
    [((4,), (4, 3), (4,)), ((4, 1), (4, 3), (4,)), ((2, 1, 5, 6), (2, 3, 5, 6), (2, 5, 6)),
     ((2, 5, 6), (2, 3, 5, 6), (2, 5, 6)), ((1, 1, 4, 4, 4), (1, 2, 4, 4, 4), (1, 4, 4, 4))],
)  # fmt: skip
def test_the_channel_goes_and_the_values_stay(labels, logits, expected):
    given = torch.randint(0, 2, labels).float()
    found = class_indices(given, torch.randn(logits))
    assert found.shape == expected and found.dtype == torch.int64
    assert torch.equal(found.flatten(), given.flatten().long())
    torch.nn.functional.cross_entropy(torch.randn(logits), found)
