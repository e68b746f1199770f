"""The proximal term of FedProx: value, gradient mu (w - w_global), and what it is near to."""

import pytest
import torch
from handlers_toys import Gradients, Toy, guided, make_batches, supervised
from ignite.engine import Events
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedhelp_med.handlers import ProximalTerm


def test_the_term_is_half_the_squared_distance_times_mu() -> None:
    network, batches = nn.Linear(1, 1), [{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}]
    handler = ProximalTerm(0.5)
    trainer = supervised(network, batches, handler, loss_function=nn.MSELoss(), lr=0.0)

    @trainer.on(Events.ITERATION_STARTED)
    def _(engine: object) -> None:
        with torch.no_grad():  # by hand: w moves by 3, b by -1
            network.weight += 3
            network.bias -= 1

    trainer.run()
    assert handler.average == pytest.approx(0.5 / 2 * (3**2 + 1**2), rel=1e-5)


def test_the_gradient_is_mu_times_the_distance() -> None:
    network, batches = Toy(), make_batches(3)
    initial = [p.detach().clone() for p in network.parameters()]
    gradients, weights, tasks = Gradients(network), [], []
    trainer = supervised(network, batches, ProximalTerm(0.7), gradients, lr=0.5)

    @trainer.on(Events.ITERATION_STARTED)
    def _(engine: object) -> None:
        batch = batches[len(weights)]
        loss = cross_entropy(network(batch["image"]), batch["label"])
        tasks.append(torch.autograd.grad(loss, list(network.parameters())))
        weights.append([p.detach().clone() for p in network.parameters()])

    trainer.run()
    for seen, now, task in zip(gradients.seen, weights, tasks, strict=True):
        expected = [t + 0.7 * (w - w0) for t, w, w0 in zip(task, now, initial, strict=True)]
        torch.testing.assert_close(seen, expected)
    assert torch.equal(weights[0][0], initial[0])
    assert not torch.equal(weights[2][0], initial[0])


def test_each_run_is_near_to_what_it_started_from() -> None:
    network, handler = Toy(), ProximalTerm(1.0)
    trainer = supervised(network, make_batches(1), handler, lr=0.5)
    trainer.run()
    assert handler.average == 0  # one iteration: computed before the first step
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)  # the next download
    trainer.state.max_epochs = 2
    trainer.run()
    assert handler.average == 0


def test_it_pulls_the_network_back() -> None:
    def distance(mu: float) -> float:
        torch.manual_seed(1)
        network, batches = Toy(), make_batches(5)
        initial = [p.detach().clone() for p in network.parameters()]
        supervised(network, batches, ProximalTerm(mu), lr=0.3, max_epochs=4).run()
        return sum((p - p0).square().sum().item() for p, p0 in zip(network.parameters(), initial, strict=True))

    assert distance(2.0) < distance(0.2) < distance(0.0)


def test_only_trainable_parameters_of_the_network_count() -> None:
    network = Toy(batch_norm=True)
    network.head.requires_grad_(False)
    public = [{"image": torch.randn(2, 1, 2, 2), "label": torch.tensor([0, 1])}]
    handler = ProximalTerm(2.0)
    trainer, guidance = guided(network, make_batches(1), public, "head", 2, handlers=[handler])

    @trainer.on(Events.ITERATION_STARTED)
    def _(engine: object) -> None:
        def shift(values: list[Tensor], size: float) -> None:
            for value in values:
                value.data = value.data + size

        shift(list(network.head.parameters()), 5.0)  # frozen
        shift(list(guidance.auxiliary.parameters()), 5.0)  # not the network's
        shift([network.phi[2].running_mean], 5.0)  # a statistic
        shift([network.phi[1].bias], 1.0)  # five numbers by 1

    trainer.run()
    assert handler.average == pytest.approx(2.0 / 2 * 5)
