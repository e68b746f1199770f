"""Every method against its equations, written out in plain torch: two rounds of three full-batch steps at four sites.

The images are their own mirror images, so that the bundle's random flips change nothing, and a batch holds the whole
site: what a site computes does then not depend on any random order. The optimiser is plain gradient descent.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import SMALL
from monai.networks.nets import DenseNet
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, relu, softmax

from fedhelp_med.common.seeds import derive_seed, seed_everything
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.foundation import InputSpec, acquire
from fedhelp_med.foundation.local import LocalFoundationModel

pytestmark = pytest.mark.integration

SEED, ROUNDS, STEPS, RATE = 5, 2, 3, 0.1
SITES = {"clinic-a": ("small", 4), "clinic-b": ("small", 6), "hospital-a": ("large", 8), "hospital-b": ("large", 10)}
WEIGHTS = {name: samples / 28 for name, (_, samples) in SITES.items()}
CLASSES = ("class 0", "class 1")

State = dict[str, Tensor]
Images = tuple[Tensor, Tensor]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def pixels(label: int, random: np.random.Generator) -> np.ndarray:
    quarter = random.integers(40, 120, (8, 8))
    quarter[4:, 4:] += 60 * label
    half = np.concatenate((quarter, quarter[::-1]))
    return np.concatenate((half, half[:, ::-1]), 1).astype(np.uint8)


def write(folder: Path, count: int, seed: int, **content: Any) -> Images:
    """Write a datalist of symmetric images; return them as the bundle prepares them."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    items, images = [], []
    for index in range(count + 4):
        picture = pixels(index % 2, random)
        Image.fromarray(picture).save(folder / "images" / f"{index}.png")
        items.append({"image": f"images/{index}.png", "label": index % 2})
        images.append(torch.from_numpy(picture.T.astype(np.float32))[None])
    labels = {str(index): name for index, name in enumerate(CLASSES)}
    lists = {"training": items[:count], "validation": items[count : count + 2], "testing": items[count + 2 :]}
    if content.get("public"):
        lists = {"training": [{"image": item["image"]} for item in items[:count]]}
    (folder / "datalist.json").write_text(json.dumps({"name": folder.name, "labels": labels, **lists, **content}))
    stack = torch.stack(images[:count])
    flat = stack.flatten(1)
    shape = (-1, 1, 1, 1)
    prepared = (stack - flat.mean(1).reshape(shape)) / flat.std(1, correction=0).reshape(shape)
    return prepared, torch.arange(count) % 2


class Knowing(nn.Module):
    """A foundation model: the centre's brightness decides."""

    def forward(self, image: Tensor) -> Tensor:
        centre = 20 * (image[:, 0, 4:12, 4:12].mean((1, 2)) - 0.745)  # one public image of six is bright
        return torch.stack((-centre, centre), 1)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Any]:
    """The sites' images, the public ones, and the foundation model's logits for them."""
    folder = tmp_path_factory.mktemp("world")
    images = {name: write(folder / name, count, seed) for seed, (name, (_, count)) in enumerate(SITES.items())}
    public, _ = write(folder / "public", 6, 99, public=True)
    spec = InputSpec(1, (16, 16))
    model = LocalFoundationModel(Knowing(), name="knowing", version="1", classes=CLASSES, input=spec)
    acquire(folder / "public" / "datalist.json", model, folder / "knowledge.sqlite")
    raw = np.stack([spec.preprocess(folder / "public" / "images" / f"{index}.png") for index in range(6)])
    return {"folder": folder, "images": images, "public": (public, torch.as_tensor(model.predict(raw)))}


@pytest.fixture
def run(world, tmp_path):
    """Run a method; return the run folder."""

    def execute(method: str, **settings: Any) -> Path:
        content = {
            "name": method,
            "seed": SEED,
            "rounds": ROUNDS,
            "local_epochs": STEPS,
            "method": method,
            "preset": "paper",
            "settings": settings,
            "bundle": "fedhelp_classification",
            "overrides": {
                **SMALL,
                "batch_size": 64,
                "learning_rate": RATE,
                "weight_decay": 0.0,
                "optimizer#_target_": "torch.optim.SGD",
                "large_optimizer#_target_": "torch.optim.SGD",
            },
            "public": {"data": str(world["folder"] / "public" / "datalist.json")},
            "foundation": {"ledger": str(world["folder"] / "knowledge.sqlite")},
            "sites": [
                {"name": name, "role": role, "data": str(world["folder"] / name / "datalist.json")}
                for name, (role, _) in SITES.items()
            ],
        }
        file = tmp_path / "federation.yaml"
        file.write_text(yaml.safe_dump(content))
        return run_federation(load_federation(file), tmp_path / "run").root

    return execute


# The reference


def small(state: State | None = None) -> nn.Module:
    seed_everything(derive_seed(SEED, "network"))
    network = DenseNet(2, 1, 2, init_features=4, growth_rate=4, block_config=(1, 1), norm=("group", {"num_groups": 4}))
    if state is not None:
        network.load_state_dict(state)
    return network


def large(site: str) -> nn.Module:
    """The site's large network, whose start is the site's own."""
    seed_everything(derive_seed(SEED, site, "large network"))
    return DenseNet(2, 1, 2, init_features=8, growth_rate=8, block_config=(1, 1), norm=("group", {"num_groups": 4}))


def task(network: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    return cross_entropy(network(image), label)


def descend(loss: Callable[[], Tensor], *networks: nn.Module, steps: int = STEPS) -> None:
    for _ in range(steps):
        for network in networks:
            network.zero_grad()
        loss().backward()
        with torch.no_grad():
            for network in networks:
                for parameter in network.parameters():
                    if parameter.grad is not None:
                        parameter -= RATE * parameter.grad


def mean(states: dict[str, State]) -> State:
    first = next(iter(states.values()))
    return {key: sum(WEIGHTS[name] * state[key] for name, state in states.items()) for key in first}


def copy_of(network: nn.Module) -> State:
    return {key: value.clone() for key, value in network.state_dict().items()}


def kl(teacher: Tensor, student: Tensor, weights: float | Tensor = 1.0) -> Tensor:
    p = softmax(teacher.detach(), 1)
    return (weights * (p * (p.log() - log_softmax(student, 1))).sum(1)).mean()


def averaged(
    images: dict[str, Images], start: State, loss: Loss = task, kept: str = " "
) -> tuple[State, dict[str, State]]:
    """FedAvg under a loss; keys that contain ``kept`` stay at the sites."""
    shared, own = start, dict.fromkeys(SITES, start)
    for _ in range(ROUNDS):
        for name in SITES:
            network = small({key: own[name][key] if kept in key else shared[key] for key in shared})
            image, label = images[name]
            descend(lambda network=network, image=image, label=label: loss(network, image, label), network)
            own[name] = copy_of(network)
        shared = mean(own)
    return shared, own


def adam(network: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float = 1e-3, decays: bool = True) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, weight_decay=1e-4 if decays else 0.0)
    for step in range(steps):
        if decays:
            optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def final(root: Path) -> State:
    return load_file(root / "global" / f"round-{ROUNDS:04d}" / "model.safetensors")


def deployed(root: Path, site: str, network: str) -> State:
    return load_file(root / "sites" / site / "deployed" / f"{network}.safetensors")


def assert_same(found: State, expected: State, tolerance: float = 2e-5) -> None:
    assert set(found) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, atol=tolerance, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}"
        )


# The methods


def test_local_is_descent_on_the_sites_own_images(run, world) -> None:
    root = run("local")
    for name, (role, _) in SITES.items():
        network = small() if role == "small" else large(name)
        image, label = world["images"][name]
        descend(lambda n=network, x=image, y=label: task(n, x, y), network, steps=STEPS * ROUNDS)
        assert_same(deployed(root, name, "local"), copy_of(network))


def test_fedavg_averages_by_samples(run, world) -> None:
    expected, _ = averaged(world["images"], copy_of(small()))
    assert_same(final(run("fedavg")), expected)


def test_fedprox_adds_half_mu_times_the_squared_distance(run, world) -> None:
    shared = copy_of(small())
    for _ in range(ROUNDS):
        states = {}
        for name, (image, label) in world["images"].items():
            network = small(shared)

            def loss(n: Any = network, x: Tensor = image, y: Tensor = label, start: State = shared) -> Tensor:
                distance = sum((value - start[key]).square().sum() for key, value in n.named_parameters())
                return task(n, x, y) + 0.7 / 2 * distance

            descend(loss, network)
            states[name] = copy_of(network)
        shared = mean(states)
    assert_same(final(run("fedprox", mu=0.7)), shared)


def test_fedbn_keeps_each_sites_normalisation(run, world) -> None:
    root = run("fedbn")
    expected, own = averaged(world["images"], copy_of(small()), kept="norm")
    assert_same(final(root), {key: value for key, value in expected.items() if "norm" not in key})
    assert any("norm" in key for key in expected)
    for name in SITES:
        found = load_file(root / "sites" / name / f"round-{ROUNDS:04d}" / "state.safetensors")
        norms = {key: value for key, value in own[name].items() if "norm" in key}
        assert_same({key: found[f"state/network/{key}"] for key in norms}, norms)


def test_fedavg_public_starts_from_the_soft_labels(run, world) -> None:
    image, knowledge = world["public"]
    network = small()
    adam(network, lambda: kl(knowledge, network(image)), steps=4)
    expected, _ = averaged(world["images"], copy_of(network))
    assert_same(final(run("fedavg-public", warm_start=4)), expected, tolerance=1e-4)


def test_local_public_starts_from_the_soft_labels_and_stays_alone(run, world) -> None:
    root = run("local-public", warm_start=4)
    public, knowledge = world["public"]
    for name, (role, _) in SITES.items():
        network = small() if role == "small" else large(name)
        adam(network, lambda n=network: kl(knowledge, n(public)), steps=4)
        image, label = world["images"][name]
        descend(lambda n=network, x=image, y=label: task(n, x, y), network, steps=STEPS * ROUNDS)
        assert_same(deployed(root, name, "own"), copy_of(network), tolerance=1e-4)


def test_fedmd_approaches_the_mean_logits_then_its_own_images(run, world) -> None:
    root = run("fedmd", passes=1, digest_rate=1e-3)
    networks = {name: small() if role == "small" else large(name) for name, (role, _) in SITES.items()}
    public, _ = world["public"]
    consensus = None
    for _ in range(ROUNDS):
        for name, network in networks.items():
            if consensus is not None:
                adam(network, lambda n=network, z=consensus: (n(public) - z).abs().mean(), steps=1, decays=False)
            image, label = world["images"][name]
            descend(lambda n=network, x=image, y=label: task(n, x, y), network)
        consensus = sum(WEIGHTS[name] * network(public).detach() for name, network in networks.items())
    for name, network in networks.items():
        assert_same(deployed(root, name, "own"), copy_of(network), tolerance=1e-4)
    sent = load_file(root / "sites" / "clinic-a" / f"round-{ROUNDS:04d}" / "update.safetensors")
    assert {key: tuple(value.shape) for key, value in sent.items()} == {"predictions": (6, 2)}


def reciprocal(
    images: dict[str, Images], proxy_term: Any, large_term: Any, small_loss: Loss = task
) -> tuple[State, Any]:
    """Large sites train a proxy and a large network side by side; the proxy travels."""
    shared = copy_of(small())
    larges = {name: large(name) for name, (role, _) in SITES.items() if role == "large"}
    for _ in range(ROUNDS):
        states = {}
        for name, (image, label) in images.items():
            network, other = small(shared), larges.get(name)

            def loss(n: Any = network, w: Any = other, x: Tensor = image, y: Tensor = label) -> Tensor:
                if w is None:
                    return small_loss(n, x, y)
                z, zw = n(x), w(x)
                return cross_entropy(z, y) + cross_entropy(zw, y) + proxy_term(z, zw) + large_term(z, zw)

            descend(loss, *(net for net in (network, other) if net is not None))
            states[name] = copy_of(network)
        shared = mean(states)
    return shared, larges


def test_fml_teaches_whole_soft_labels_both_ways(run, world) -> None:
    root = run("fml", forward=0.5, backward=0.3)
    expected, larges = reciprocal(world["images"], lambda z, zw: 0.5 * kl(zw, z), lambda z, zw: 0.3 * kl(z, zw))
    assert_same(final(root), expected)
    for name, network in larges.items():
        assert_same(deployed(root, name, "large"), copy_of(network))


def weights_of(form: str, network: Any, image: Tensor, public: Tensor, knowledge: Tensor) -> Tensor:
    """The weights of the public images in a step; ``network`` keeps the site's centre."""
    if form == "equal":
        return torch.ones(len(public))
    if form == "class":
        present, kind, counts = knowledge.argmax(1).unique(return_inverse=True, return_counts=True)
        return (len(public) / (len(present) * counts))[kind]
    with torch.no_grad():
        private, shown = (network.class_layers[:-1](network.features(images)) for images in (image, public))
    network.centre = (getattr(network, "centre", private.mean(0)) + private.mean(0)) / 2
    square = (shown - network.centre).square().sum(1)
    near = torch.exp(-square / (2 * square.mean()))
    return near / near.mean()


@pytest.mark.parametrize("weights", ["equal", "class", "nearness"])
def test_fedhelp_guides_distils_forward_and_ranks_backward(run, world, weights) -> None:
    public, knowledge = world["public"]

    def guided(network: nn.Module, image: Tensor, label: Tensor) -> Tensor:
        counted = weights_of(weights, network, image, public, knowledge)
        return task(network, image, label) + 0.8 * 0.6 * kl(knowledge, network(public), counted)

    def ranked(z: Tensor, zw: Tensor) -> Tensor:
        top = z.detach().argmax(1, keepdim=True)
        lead = zw.gather(1, top) - zw.gather(1, 1 - top)
        return 0.4 * relu(0.5 - lead).mean()

    settings = {"guidance": 0.8, "knowledge": 0.6, "head": "task", "forward": 0.5, "ranking": 0.4, "margin": 0.5}
    root = run("fedhelp", guidance_weights=weights, **settings)
    expected, larges = reciprocal(world["images"], lambda z, zw: 0.5 * kl(zw, z), ranked, guided)
    assert_same(final(root), expected)
    for name, network in larges.items():
        assert_same(deployed(root, name, "large"), copy_of(network))
