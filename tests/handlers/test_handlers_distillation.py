"""The two directions at a large site against the written-out equations of the paper."""

from typing import Any

import pytest
import torch
from handlers_toys import Gradients, Toy, divergence, make_batches, reciprocal
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, relu, softplus

from fedhelp_med.common.errors import InputError
from fedhelp_med.engines import LARGE_LOSS
from fedhelp_med.handlers import BackwardDistillation, ForwardDistillation, RankingDistillation
from fedhelp_med.handlers.distillation import agreement


def margin(student: Tensor, teacher: Tensor, size: float) -> Tensor:
    """Mean over the pairs of relu(m - (z[top] - z[rest])) for the teacher's first class, image by image."""
    losses = []
    for z, order in zip(student, teacher.detach(), strict=True):
        top = int(order.argmax())
        losses += [relu(size - (z[top] - z[rest])) for rest in range(len(z)) if rest != top]
    return torch.stack(losses).mean()


def ranknet(student: Tensor, teacher: Tensor) -> Tensor:
    pairs = [(i, j) for i in range(student.shape[1]) for j in range(student.shape[1])]
    losses = [
        softplus(z[j] - z[i])
        for z, order in zip(student, teacher.detach(), strict=True)
        for i, j in pairs
        if order[i] > order[j]
    ]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("forms", [("margin", {"margin": 0.8, "top_k": 1}), ("ranknet", {})], ids=["margin", "ranknet"])
def test_losses_and_gradients_are_those_of_the_equations(forms: tuple[str, dict[str, Any]]) -> None:
    proxy, large, (batch,) = Toy(), Toy(), make_batches(1)
    forward = ForwardDistillation(0.6, temperature=2.0)
    ranking = RankingDistillation(0.3, forms[0], **forms[1])
    trainer = reciprocal(proxy, large, [batch], forward, ranking)
    gradients = [Gradients(proxy), Gradients(large)]
    for recorder in gradients:
        recorder.attach(trainer)

    # L_proxy = CE(z_P, y) + alpha T^2 KL(sg p_W || p_P);  L_large = CE(z_W, y) + beta R(z_W; order of sg z_P)
    z_p, z_w = proxy(batch["image"]), large(batch["image"])
    forward_term = divergence(z_w, z_p, temperature=2.0)
    ranking_term = margin(z_w, z_p, 0.8) if forms[0] == "margin" else ranknet(z_w, z_p)
    proxy_loss = cross_entropy(z_p, batch["label"]) + 0.6 * forward_term
    large_loss = cross_entropy(z_w, batch["label"]) + 0.3 * ranking_term
    wanted = [
        list(torch.autograd.grad(loss, list(network.parameters())))
        for loss, network in ((proxy_loss, proxy), (large_loss, large))
    ]

    trainer.run()
    assert trainer.state.output["loss"].item() == pytest.approx(proxy_loss.item(), rel=1e-5)
    assert trainer.state.output[LARGE_LOSS].item() == pytest.approx(large_loss.item(), rel=1e-5)
    assert forward.average == pytest.approx(0.6 * forward_term.item(), rel=1e-5)
    assert ranking.average == pytest.approx(0.3 * ranking_term.item(), rel=1e-5)
    assert forward.average > 0
    assert ranking.average > 0
    for recorder, expected in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(recorder.seen[0], expected)


def test_one_sigmoid_channel_is_taught_in_both_directions() -> None:
    proxy, large, (batch,) = Toy(1), Toy(1), make_batches(1, classes=2)
    batch["label"] = batch["label"][:, None].float()
    forward, ranking = ForwardDistillation(1.0), RankingDistillation(1.0, margin=3.0)
    trainer = reciprocal(proxy, large, [batch], forward, ranking, loss_function=nn.BCEWithLogitsLoss())
    trainer.run()
    z_p, z_w = proxy(batch["image"]), large(batch["image"])
    p, q = z_w.sigmoid(), z_p.sigmoid()  # the Bernoulli divergence of the two
    bernoulli = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    hinge = relu(3.0 - z_p.sign() * z_w).mean()  # the lead of the class that the proxy prefers
    assert forward.average == pytest.approx(bernoulli.item(), rel=1e-4)
    assert ranking.average == pytest.approx(hinge.item(), rel=1e-5)
    task = binary_cross_entropy_with_logits(z_p, batch["label"]) + bernoulli
    assert trainer.state.output["loss"].item() == pytest.approx(task.item(), rel=1e-4)


def test_whole_soft_labels_can_go_both_ways_for_methods_that_do_so() -> None:
    proxy, large, (batch,) = Toy(), Toy(), make_batches(1)
    handlers = ForwardDistillation(0.6, temperature=2.0), BackwardDistillation(0.4, temperature=3.0)
    trainer = reciprocal(proxy, large, [batch], *handlers)
    gradients = Gradients(proxy, large)
    gradients.attach(trainer)

    # L_proxy = CE(z_P, y) + a T^2 KL(sg p_W || p_P);  L_large = CE(z_W, y) + b T^2 KL(sg p_P || p_W)
    z_p, z_w = proxy(batch["image"]), large(batch["image"])
    forward, backward = divergence(z_w, z_p, temperature=2.0), divergence(z_p, z_w, temperature=3.0)
    total = cross_entropy(z_p, batch["label"]) + 0.6 * forward + cross_entropy(z_w, batch["label"]) + 0.4 * backward
    wanted = torch.autograd.grad(total, [*proxy.parameters(), *large.parameters()])

    trainer.run()
    assert handlers[1].average == pytest.approx(0.4 * backward.item(), rel=1e-5)
    assert handlers[1].average > 0
    losses = trainer.state.output["loss"] + trainer.state.output[LARGE_LOSS]
    assert losses.item() == pytest.approx(total.item(), rel=1e-5)
    torch.testing.assert_close(gradients.seen[0], list(wanted))


def test_each_direction_leaves_the_other_loss_alone() -> None:
    proxy, large, batches = Toy(), Toy(), make_batches(1)
    losses = {}
    for name, handlers in {
        "none": [],
        "forward": [ForwardDistillation(1.0)],
        "ranking": [RankingDistillation(1.0, margin=5.0)],
    }.items():
        trainer = reciprocal(proxy, large, batches, *handlers)
        trainer.run()
        losses[name] = trainer.state.output["loss"].item(), trainer.state.output[LARGE_LOSS].item()
    assert losses["forward"][0] > losses["none"][0]
    assert losses["forward"][1] == losses["none"][1]
    assert losses["ranking"][0] == losses["none"][0]
    assert losses["ranking"][1] > losses["none"][1]


def test_networks_that_agree_teach_each_other_nothing() -> None:
    proxy, large = Toy(), Toy()
    large.load_state_dict(proxy.state_dict())
    with torch.no_grad():  # far from any tie
        for network in (proxy, large):
            network.head.bias.copy_(torch.tensor([9.0, 0.0, -9.0]))
    forward, ranking = ForwardDistillation(1.0), RankingDistillation(1.0)
    reciprocal(proxy, large, make_batches(1), forward, ranking).run()
    assert forward.average == pytest.approx(0, abs=1e-6)
    assert ranking.average == 0


class Refuses(nn.Module):
    def forward(self, *_: Tensor) -> Tensor:
        raise AssertionError("the term was computed")


def test_at_weight_zero_no_term_is_computed() -> None:
    handlers = ForwardDistillation(0.0), RankingDistillation(0.0), BackwardDistillation(0.0)
    for handler in handlers:
        handler.loss = Refuses()
    reciprocal(Toy(), Toy(), make_batches(2), *handlers).run()
    assert [handler.average for handler in handlers] == [0, 0, 0]


def test_weights_are_the_papers_by_default() -> None:
    assert ForwardDistillation().weight(None) == 1.0
    assert RankingDistillation().weight(None) == 0.2
    assert RankingDistillation().loss.top_k == 1


def test_settings_of_the_losses_are_checked_at_once() -> None:
    with pytest.raises(InputError, match="temperature is 0"):
        ForwardDistillation(1.0, temperature=0)
    with pytest.raises(InputError, match="'listnet'"):
        RankingDistillation(1.0, "listnet")
    with pytest.raises(InputError, match="does not take the settings"):
        RankingDistillation(1.0, "ranknet", top_k=2)


def test_agreement_is_one_minus_the_total_variation() -> None:
    ln = torch.tensor([0.7, 0.2, 0.1]).log()[None], torch.tensor([0.4, 0.4, 0.2]).log()[None]
    torch.testing.assert_close(agreement(*ln), torch.tensor([[0.7]]))
    assert agreement(ln[0], ln[0] + 3).item() == pytest.approx(1)
    torch.testing.assert_close(agreement(torch.zeros(1, 1), torch.full((1, 1), 50.0)), torch.tensor([[0.5]]))
    assert agreement(torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)).shape == (2, 1, 4, 5)


@pytest.mark.parametrize("form", ["margin", "ranknet", "listmle"])
def test_trust_weighs_each_sample_of_the_ranking(form: str) -> None:
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    loss = RankingDistillation(1.0, form).loss
    trust = torch.tensor([[0.3], [0.0], [1.0], [0.5], [0.2]])
    single = torch.stack([loss(student[i : i + 1], teacher[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(loss(student, teacher, trust), (single * trust[:, 0]).mean())
    torch.testing.assert_close(loss(student, teacher, torch.ones(5, 1)), loss(student, teacher))


def test_a_sample_on_which_the_networks_contradict_each_other_teaches_little() -> None:
    proxy, large, (batch,) = Toy(), Toy(), make_batches(1)
    values = {}
    for trust in (False, True):
        ranking = RankingDistillation(1.0, margin=2.0, trust=trust)
        reciprocal(proxy, large, [batch], ranking).run()
        values[trust] = ranking.average
    assert 0 < values[True] < values[False]
