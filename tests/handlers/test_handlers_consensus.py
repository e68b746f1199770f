"""Predictions on public images as the message; what a site makes of their mean."""

from types import SimpleNamespace

import pytest
import torch
from handlers_toys import Toy, make_batches, supervised
from torch import Tensor

from fedhelp_med.common.errors import InputError
from fedhelp_med.handlers import Messenger, PublicConsensus

PUBLIC = [{"image": torch.full((1, 2, 2), float(index))} for index in range(10)]


def consensus_of(network: Toy, **settings) -> PublicConsensus:
    return PublicConsensus(network, PUBLIC, **{"images": 4, "batch_size": 3, **settings})


def engine(number: int) -> SimpleNamespace:
    return SimpleNamespace(state=SimpleNamespace(device="cpu", federated_round=number))


def test_it_is_a_messenger_and_a_loss_term_is_none() -> None:
    assert isinstance(consensus_of(Toy()), Messenger)


def test_every_site_speaks_of_the_same_images_and_of_others_in_the_next_round() -> None:
    seen: dict[int, list[float]] = {}
    for number in (1, 2):
        for _ in range(2):
            network, asked = Toy(), list[float]()
            network.register_forward_pre_hook(lambda _, args, asked=asked: asked.extend(args[0][:, 0, 0, 0].tolist()))
            message = consensus_of(network).outgoing(engine(number))
            assert message["predictions"].shape == (4, 3)
            assert seen.setdefault(number, asked) == asked
    assert seen[1] != seen[2]
    assert all(len(set(images)) == 4 for images in seen.values())


def test_the_message_is_the_networks_logits_and_the_network_stays_in_its_mode() -> None:
    network = Toy(batch_norm=True).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    (logits,) = consensus_of(network).outgoing(engine(1)).values()
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not logits.requires_grad


def distance(network: Toy, consensus: PublicConsensus, number: int, wanted: Tensor) -> float:
    return (consensus.outgoing(engine(number - 1))["predictions"] - wanted).abs().mean().item()


def test_digesting_brings_the_network_nearer_to_the_consensus_once() -> None:
    network, wanted = Toy(), torch.randn(4, 3)
    handler = consensus_of(network, passes=60, learning_rate=0.05)
    trainer = supervised(network, make_batches(1), handler)  # at learning rate 0 the private data change nothing
    trainer.state.federated_round = 2
    before = distance(network, handler, 2, wanted)
    handler.incoming({"predictions": wanted})
    trainer.run()
    after = distance(network, handler, 2, wanted)
    assert after < 0.5 * before
    trainer.state.max_epochs += 1
    trainer.run()
    assert distance(network, handler, 2, wanted) == after  # a consensus is digested in its own round only


def test_without_a_consensus_the_first_round_is_private_training_alone() -> None:
    network = Toy()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    handler = consensus_of(network)
    trainer = supervised(network, make_batches(1), handler)
    trainer.state.federated_round = 1
    trainer.run()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_no_more_images_than_there_are() -> None:
    assert len(consensus_of(Toy(), images=99).outgoing(engine(1))["predictions"]) == len(PUBLIC)


@pytest.mark.parametrize(
    "message", [{"predictions": torch.zeros(3, 3)}, {"weights": torch.zeros(4, 3)}, {}], ids=["count", "key", "empty"]
)
def test_a_message_of_another_public_set_is_refused(message) -> None:
    with pytest.raises(InputError, match="same public set"):
        consensus_of(Toy()).incoming(message)
