"""Guidance by an embedding: a projection of the features learns it, through the same loss term."""

import pytest
import torch
from handlers_toys import Gradients, Toy, guided, make_batches
from monai.networks.nets import BasicUNet
from torch.nn.functional import cosine_similarity

from fedhelp_med.common.errors import InputError
from fedhelp_med.handlers import KNOWLEDGE

DIMENSION = 7


def public(**more):
    return {"image": torch.randn(6, 1, 2, 2), KNOWLEDGE: torch.randn(6, DIMENSION), **more}


def test_loss_and_gradient_are_those_of_the_equation():
    network, (private,), batch = Toy(), make_batches(1), public()
    settings = {"kind": "embedding", "weight": 0.5, "knowledge_weight": 0.7}
    trainer, handler = guided(network, [private], [batch], "head", DIMENSION, **settings)
    gradients = Gradients(network, handler.auxiliary)
    gradients.attach(trainer)

    projected = handler.auxiliary(network.phi(batch["image"]))
    assert projected.shape == (6, DIMENSION)
    distance = (1 - cosine_similarity(projected, batch[KNOWLEDGE])).mean()
    task = torch.nn.functional.cross_entropy(network(private["image"]), private["label"])
    wanted = torch.autograd.grad(task + 0.5 * 0.7 * distance, [*network.parameters(), *handler.auxiliary.parameters()])
    trainer.run()
    assert handler.average == pytest.approx(0.5 * 0.7 * distance.item(), rel=1e-5)
    torch.testing.assert_close(gradients.seen[0], list(wanted))


def test_the_embedding_is_learned():
    network, batch = Toy(), public()
    batch[KNOWLEDGE] = batch["image"].flatten(1) @ torch.randn(4, DIMENSION)  # what features of the images can tell
    trainer, handler = guided(
        network, make_batches(40), [batch], "head", DIMENSION, kind="embedding", weight=20.0, lr=0.05, handlers=()
    )
    trainer.run()
    first = handler.average
    trainer.state.max_epochs = 3
    trainer.run()
    assert handler.average < 0.5 * first


def test_public_labels_are_left_alone():
    network, (private,) = Toy(), make_batches(1)
    batch = public()
    with_labels = {**batch, "label": torch.full((6,), 99)}  # no class of any head
    averages = []
    for public_batch in (batch, with_labels):
        torch.manual_seed(1)
        trainer, handler = guided(network, [private], [public_batch], "head", DIMENSION, kind="embedding")
        trainer.run()
        averages.append(handler.average)
    assert averages[0] == averages[1] > 0


def test_a_dense_network_is_averaged_over_its_positions():
    network = BasicUNet(2, 1, 2, features=(2, 2, 4, 4, 4, 2), norm=("group", {"num_groups": 2}))
    private = {"image": torch.randn(1, 1, 32, 32), "label": torch.randint(0, 2, (1, 32, 32))}
    batch = {"image": torch.randn(2, 1, 32, 32), KNOWLEDGE: torch.randn(2, DIMENSION)}
    trainer, handler = guided(network, [private], [batch], "final_conv", DIMENSION, kind="embedding")
    trainer.run()
    features = []
    hook = network.final_conv.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    network(batch["image"])
    hook.remove()
    projected = handler.auxiliary(features[0]).mean((2, 3))
    expected = (1 - cosine_similarity(projected, batch[KNOWLEDGE])).mean()
    assert handler.average == pytest.approx(expected.item(), rel=1e-4)


def test_trust_scales_lambda():
    network, (private,), batch = Toy(), make_batches(1), public()
    averages = []
    for trust in (1.0, 0.25):
        torch.manual_seed(1)
        trainer, handler = guided(network, [private], [batch], "head", DIMENSION, trust=trust)
        trainer.run()
        averages.append(handler.average)
    assert averages[1] == pytest.approx(0.25 * averages[0])


def test_what_cannot_be():
    network = Toy()
    with pytest.raises(InputError, match="'task' cannot learn an embedding"):
        guided(network, make_batches(1), [public()], "head", DIMENSION, kind="embedding", target="task")
    trainer, _ = guided(network, make_batches(1), [{"image": torch.randn(2, 1, 2, 2)}], "head", 7, kind="embedding")
    with pytest.raises(InputError, match="it has no embedding to learn from"):
        trainer.run()
