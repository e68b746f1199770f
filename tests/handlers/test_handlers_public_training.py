"""Training on the public set, against a loop in plain torch."""

import copy
import math
from itertools import cycle
from typing import Any

import pytest
import torch
from handlers_toys import Batch, Toy
from torch import Tensor, nn

from fedhelp_med.handlers import KNOWLEDGE, train_on_public
from fedhelp_med.losses import LogitsError, public_loss


def public() -> list[Batch]:
    return [
        {"image": torch.randn(6, 1, 2, 2), KNOWLEDGE: 2 * torch.randn(6, 3), "label": torch.randint(0, 3, (6,))}
        for _ in range(2)
    ]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("decay", [True, False])
def test_it_is_adam_on_the_public_loss_batch_after_batch(decay: bool) -> None:
    network, batches = Toy(), public()
    plain = copy.deepcopy(network)
    optimizer = torch.optim.Adam(plain.parameters(), weight_decay=1e-4)
    for step, number in enumerate((0, 1, 0)):
        batch = batches[number]
        optimizer.param_groups[0]["lr"] = 0.02 * (0.5 * (1 + math.cos(math.pi * step / 3)) if decay else 1)
        optimizer.zero_grad()
        public_loss(plain(batch["image"]), batch[KNOWLEDGE], batch["label"], 0.7).backward()
        optimizer.step()
    network.eval()
    train_on_public(network, cycle(batches), 3, 0.02, weight=0.7, decay=decay)
    assert network.training
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_teacher_can_be_another_and_labels_be_left_out() -> None:
    batches = public()
    start, opposite = Toy(), [{**batch, KNOWLEDGE: -batch[KNOWLEDGE]} for batch in batches]
    ends = []

    def turned(image: Tensor, knowledge: Tensor | None) -> Tensor | None:
        assert image.shape == (6, 1, 2, 2) and knowledge is not None
        return -knowledge

    for given, options in ((batches, {"target": turned}), (opposite, {})):
        network, more = copy.deepcopy(start), dict[str, Any](options)
        train_on_public(network, cycle(given), 3, 0.02, labels=False, **more)
        ends.append(network)
    assert same(*ends) and not same(start, ends[0])


def test_a_batch_that_teaches_nothing_is_refused() -> None:
    batches = [{key: batch[key] for key in ("image", KNOWLEDGE)} for batch in public()]
    with pytest.raises(LogitsError, match="neither a label nor an answer"):
        train_on_public(Toy(), cycle(batches), 1, 0.02, weight=0.0)
