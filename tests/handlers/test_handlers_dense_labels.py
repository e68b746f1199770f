"""Public masks: guidance and the large network's warm start learn from them as from class indices."""

import copy

import pytest
import torch
from handlers_toys import supervised
from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedhelp_med.handlers import FoundationGuidance, PublicWarmStart


class Dense(nn.Module):
    """Features of 4 channels, then ``head``."""

    def __init__(self) -> None:
        super().__init__()
        self.phi = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.phi(image).relu())
        return logits


def batch(classes: int = 3) -> dict[str, Tensor]:
    return {"image": torch.randn(2, 1, 6, 6), "label": torch.randint(0, classes, (2, 1, 6, 6)).float()}


@pytest.mark.parametrize("loss", [None, DiceCELoss(to_onehot_y=True, softmax=True)], ids=["default", "Dice and CE"])
def test_public_masks_of_other_classes_guide_through_the_auxiliary_head(loss: nn.Module | None) -> None:
    network, public = Dense(), batch(classes=5)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    handler = FoundationGuidance(network, optimizer, [public], "head", 5, label_loss=loss)
    private = batch()
    trainer = supervised(network, [private], handler, loss_function=DiceCELoss(to_onehot_y=True, softmax=True))
    trainer.run()
    answer = handler.auxiliary(network.phi(public["image"]).relu())
    expected = cross_entropy(answer, public["label"][:, 0].long()) if loss is None else loss(answer, public["label"])
    assert handler.average == pytest.approx(expected.item(), rel=1e-5)


def test_a_large_network_warms_up_on_public_masks() -> None:
    network, public = Dense(), batch()
    before = copy.deepcopy(network)
    trainer = supervised(network, [batch()], PublicWarmStart([public], 60, 0.05, network="network"),
                         loss_function=DiceCELoss(to_onehot_y=True, softmax=True))  # fmt: skip
    trainer.state.signals = {"gate": True}
    trainer.run()
    target = public["label"][:, 0].long()
    assert cross_entropy(network(public["image"]), target) < 0.9 * cross_entropy(before(public["image"]), target)
