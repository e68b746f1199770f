"""Weights of the public images in guidance, against values computed by hand."""

import copy
import math
from typing import Any

import pytest
import torch
from handlers_toys import Batch, Gradients, Toy, guided, make_batches, supervised
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div, one_hot

from fedhelp_med.common.errors import InputError
from fedhelp_med.handlers import KNOWLEDGE, ClassBalance, Nearness, nearness
from fedhelp_med.networks import FeatureTap

NO_TAP: Any = None
"""What is not looked at."""


def each(teacher: Tensor, student: Tensor) -> Tensor:
    """KL of each image and position: ``B[, spatial]``."""
    return kl_div(student.log_softmax(1), teacher.softmax(1), reduction="none").sum(1)


def answers_of(classes: list[int], count: int = 4) -> Tensor:
    """Logits ``B, K`` with these likeliest classes."""
    return 3.0 * one_hot(torch.tensor(classes), count) + torch.rand(len(classes), count)


# By class


def test_weights_by_class_are_those_by_hand() -> None:
    # Of 8 images 5, 2 and 1 are of the classes 0, 1 and 3; none is of class 2: 8 / (3 * 5), 8 / (3 * 2), 8 / (3 * 1)
    answers = answers_of([0, 0, 1, 0, 3, 0, 1, 0])
    weights = ClassBalance([answer.numpy() for answer in answers])
    batch = weights(answers[[4, 0, 2]], NO_TAP)
    torch.testing.assert_close(batch, torch.tensor([8 / 3, 8 / 15, 4 / 3]))


def test_positions_are_counted_in_masks() -> None:
    # 6 positions: class 0 four times, class 1 twice: 6 / (2 * 4) and 6 / (2 * 2)
    masks = torch.tensor([[[0, 0, 0]], [[1, 0, 1]]])
    answers = 5.0 * one_hot(masks, 3).movedim(-1, 1)
    weights = ClassBalance(list(answers))
    expected = torch.tensor([[[0.75, 0.75, 0.75]], [[1.5, 0.75, 1.5]]])
    torch.testing.assert_close(weights(answers, NO_TAP), expected)


def test_one_sigmoid_channel_has_two_classes() -> None:
    answers = torch.tensor([[-1.0], [2.0], [-3.0], [-0.5]])  # 3 of class 0, 1 of class 1: 4 / (2 * 3), 4 / (2 * 1)
    weights = ClassBalance(list(answers))
    torch.testing.assert_close(weights(answers, NO_TAP), torch.tensor([2 / 3, 2, 2 / 3, 2 / 3]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_their_mean_over_the_public_set_is_one_and_classes_that_are_equally_frequent_weigh_one(
    classes: list[int],
) -> None:
    answers = one_hot(torch.tensor(classes), 5).float()
    weights = ClassBalance(list(answers))(answers, NO_TAP)
    assert weights is not None
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)
    totals = {sum(w.item() for w, k in zip(weights, classes, strict=True) if k == label) for label in set(classes)}
    assert max(totals) == pytest.approx(min(totals), rel=1e-5)  # every class counts alike in sum


def test_a_class_that_was_never_counted_has_a_finite_weight() -> None:
    answers = answers_of([0, 0, 0, 1])
    weights = ClassBalance(list(answers))(answers_of([2]), NO_TAP)
    assert weights == pytest.approx([2.0])  # as class 1, which occurs once: 4 / (2 * 1)


def test_what_has_no_classes_cannot_be_balanced() -> None:
    embedding = {KNOWLEDGE: torch.randn(2, 7), "image": torch.randn(2, 1, 2, 2)}
    with pytest.raises(InputError, match=r"guidance_weights: 'class' cannot balance.*embedding.*choose equal or near"):
        guided(Toy(), make_batches(), [embedding], "head", 7, kind="embedding", weights="class")
    labelled = loader([{"image": torch.randn(1, 2, 2), "label": 1}])
    with pytest.raises(InputError, match=r"guidance_weights: 'class' .*without its knowledge; name a ledger"):
        guided(Toy(), make_batches(), labelled, "head", 3, weights="class")


# By nearness


def test_nearness_by_hand() -> None:
    # d^2 = 0, 1, 5: m = 2, exp(-d^2 / 4) = 1, e^-0.25, e^-1.25
    raw = [1.0, math.exp(-0.25), math.exp(-1.25)]
    expected = torch.tensor(raw) * 3 / sum(raw)
    torch.testing.assert_close(nearness(torch.tensor([0.0, 1.0, 5.0])), expected)


squares = st.lists(st.floats(0, 1e3, width=32), min_size=1, max_size=12).map(torch.tensor)


@settings(deadline=None, max_examples=50)
@given(squares, st.floats(0.01, 100))
def test_nearness_has_the_mean_one_no_unit_and_the_order_of_the_distances(d: Tensor, scale: float) -> None:
    weights = nearness(d)
    assert weights.isfinite().all()
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)
    if d.mean() == 0 or d[d > 0].min() > 1e-30:  # subnormal numbers do not scale
        torch.testing.assert_close(nearness(scale * d), weights, rtol=1e-4, atol=1e-6)
    nearest = d.argsort()
    assert (weights[nearest].diff() <= 1e-6).all()


def test_images_at_the_same_distance_weigh_one() -> None:
    for distance in (0.0, 3.0):
        assert torch.equal(nearness(torch.full((4,), distance)), torch.ones(4))
    assert torch.equal(nearness(torch.tensor([7.0])), torch.ones(1))


def test_the_centre_follows_the_private_batches_of_the_round() -> None:
    network, batches = Toy(), make_batches(3)
    trainer, handler = guided(network, batches, [public_batch()], "head", 4, weights="nearness")
    seen: list[Tensor] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(handler.image_weights.centre))
    trainer.run()
    one, two, three = (network.phi(batch["image"]).mean(0) for batch in batches)
    expected = [one, (one + two) / 2, ((one + two) / 2 + three) / 2]
    for found, value in zip(seen, expected, strict=True):
        torch.testing.assert_close(found, value.detach())
        assert not found.requires_grad
    trainer.state.max_epochs = 2
    trainer.run()  # the next round begins anew
    torch.testing.assert_close(seen[3], expected[0].detach())


def test_no_hook_stays_on_the_network_not_even_after_a_step_that_failed() -> None:
    network, bad = Toy(), {"image": torch.randn(2, 1, 3, 3), "label": torch.zeros(2, dtype=torch.int64)}
    weights = Nearness(network, "head")
    failing, working = supervised(network, [bad], weights), supervised(network, make_batches(2), weights)
    with pytest.raises(RuntimeError):
        failing.run()
    working.run()
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert weights.centre is not None


# In guidance


def public_batch(*keys: str) -> Batch:
    batch = {"image": torch.randn(6, 1, 2, 2), KNOWLEDGE: answers_of([0, 0, 0, 1, 1, 3])}
    return {**batch, "label": torch.tensor([0, 3, 1, 1, 2, 3])} if "label" in keys else batch


def loader(items: list[dict[str, Any]], size: int = 6) -> DataLoader:
    """As a bundle's: a MONAI dataset, batches of which hold all items."""
    return DataLoader(CacheDataset(items, transform=copy.copy, progress=False), batch_size=size)


def items_of(batch: Batch) -> list[dict[str, Any]]:
    return [{key: value[index] for key, value in batch.items()} for index in range(len(batch["image"]))]


def by_hand(weights: str, network: nn.Module, private: Batch, batch: Batch) -> Tensor:
    if weights == "class":  # 3, 2, 0 and 1 of 6 images
        return torch.tensor([6 / 9] * 3 + [6 / 6] * 2 + [6 / 3])
    features, centre = network.phi(batch["image"]).detach(), network.phi(private["image"]).detach().mean(0)
    distance = (features - centre).square().sum(1)
    raw = (-distance / (2 * distance.mean())).exp()
    return raw / raw.mean()


@pytest.mark.parametrize("target", ["auxiliary", "task"])
@pytest.mark.parametrize("weights", ["class", "nearness"])
def test_both_terms_and_their_gradient_are_weighed_means(weights: str, target: str) -> None:
    network, (private,), batch = Toy(4), make_batches(1), public_batch("label")
    options = {"weights": weights, "target": target, "weight": 0.5, "knowledge_weight": 0.7}
    trainer, handler = guided(network, [private], loader(items_of(batch)), "head", 4, **options)
    heads = [] if handler.auxiliary is None else [handler.auxiliary]
    gradients = Gradients(network, *heads)
    gradients.attach(trainer)

    answer = (heads or [network.head])[0](network.phi(batch["image"]))
    w = by_hand(weights, network, private, batch)
    losses = cross_entropy(answer, batch["label"], reduction="none") + 0.7 * each(batch[KNOWLEDGE], answer)
    expected = 0.5 * sum(weight * loss for weight, loss in zip(w, losses, strict=True)) / 6
    total = cross_entropy(network(private["image"]), private["label"]) + expected
    wanted = torch.autograd.grad(total, [p for module in (network, *heads) for p in module.parameters()])

    trainer.run()
    assert handler.average == pytest.approx(expected.item(), rel=1e-5)
    assert handler.average != pytest.approx(0.5 * losses.mean().item(), rel=1e-3)
    torch.testing.assert_close(gradients.seen[0], list(wanted))


def test_balanced_classes_are_guided_as_if_unweighted() -> None:
    batch = {**public_batch(), KNOWLEDGE: answers_of([0, 1, 2, 2, 1, 0])}
    averages = []
    for weights in ("equal", "class"):
        torch.manual_seed(1)
        trainer, handler = guided(Toy(), make_batches(), loader(items_of(batch)), "head", 4, weights=weights)
        trainer.run()
        averages.append(handler.average)
    assert averages[0] == averages[1] > 0


def test_classes_are_counted_without_reading_an_image() -> None:
    read: list[Any] = []
    dataset = CacheDataset(items_of(public_batch()), transform=lambda item: read.append(item) or item, cache_num=0)
    _, handler = guided(Toy(), make_batches(), DataLoader(dataset, batch_size=2), "head", 4, weights="class")
    torch.testing.assert_close(handler.image_weights.by_class, torch.tensor([6 / 9, 1, 2, 2]))
    assert not read


def test_where_the_knowledge_takes_no_part_its_classes_take_none() -> None:
    batch = public_batch("label")
    averages = []
    for weights in ("equal", "class"):
        torch.manual_seed(1)
        options = {"weights": weights, "knowledge_weight": 0.0}
        trainer, handler = guided(Toy(), make_batches(), loader(items_of(batch)), "head", 4, **options)
        trainer.run()
        averages.append(handler.average)
    assert averages[0] == averages[1] > 0


def test_embeddings_are_weighed_by_nearness() -> None:
    network, (private,) = Toy(), make_batches(1)
    batch = {"image": torch.randn(6, 1, 2, 2), KNOWLEDGE: torch.randn(6, 7)}
    trainer, handler = guided(network, [private], [batch], "head", 7, kind="embedding", weights="nearness")
    trainer.run()
    distance = 1 - cosine_similarity(handler.auxiliary(network.phi(batch["image"])), batch[KNOWLEDGE])
    expected = (by_hand("nearness", network, private, batch) * distance).mean()
    assert handler.average == pytest.approx(expected.item(), rel=1e-5)


DICE = DiceCELoss(to_onehot_y=True, softmax=True)


@pytest.mark.parametrize("label_loss", [None, DICE], ids=["default", "Dice and CE"])
@pytest.mark.parametrize("weights", ["class", "nearness"])
def test_masks_are_weighed_by_position_or_image(weights: str, label_loss: nn.Module | None) -> None:
    network = BasicUNet(2, 1, 3, features=(2, 2, 4, 4, 4, 2), norm=("group", {"num_groups": 2}))
    private = {"image": torch.randn(2, 1, 32, 32), "label": torch.randint(0, 3, (2, 32, 32))}
    masks = torch.randint(0, 2, (2, 1, 32, 32))
    masks[0, 0, :8, :8] = 2
    batch = {"image": torch.randn(2, 1, 32, 32) + torch.tensor([0.0, 3.0]).view(2, 1, 1, 1), "label": masks.float()}
    batch[KNOWLEDGE] = 2 * one_hot(masks[:, 0], 3).movedim(-1, 1) + torch.rand(2, 3, 32, 32)
    options = {"weights": weights, "label_loss": label_loss}
    trainer, handler = guided(network, [private], loader(items_of(batch)), "final_conv", 3, **options)
    trainer.run()

    taps = []
    for image in (private["image"], batch["image"]):
        with FeatureTap(network, "final_conv") as tap:
            network(image)
        taps.append(tap.features.detach())
    distance = (taps[1].mean((2, 3)) - taps[0].mean((2, 3)).mean(0)).square().sum(1)
    w = nearness(distance).view(2, 1, 1).expand(2, 32, 32)
    if weights == "class":
        counts = torch.bincount(masks.flatten())
        w = (masks.numel() / (3 * counts))[masks[:, 0]]
    answer = handler.auxiliary(taps[1])
    supervised = (w * cross_entropy(answer, masks[:, 0], reduction="none")).mean()
    if label_loss is not None:
        losses = [DICE(answer[[index]], batch["label"][[index]]) for index in range(2)]
        supervised = sum(w[index].mean() * losses[index] for index in range(2)) / 2
    expected = supervised + (w * each(batch[KNOWLEDGE], answer)).mean()
    assert handler.average == pytest.approx(expected.item(), rel=1e-4)
    assert w.std() > 0.05


def test_an_unknown_value_is_refused() -> None:
    with pytest.raises(InputError, match="guidance_weights: 'rarity' is unknown; choose equal, class or nearness"):
        guided(Toy(), make_batches(), [], "head", 4, weights="rarity")
