"""What the design's promises cost, as ratios measured in one run. Printed, never asserted: ``make benchmark``."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import write_site
from monai.engines import SupervisedTrainer
from safetensors.torch import load_file, save_file

from fedhelp_med.engines import ReciprocalTrainer
from fedhelp_med.federation.aggregate import aggregate
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.observer import Silent
from fedhelp_med.federation.runner import run_federation
from fedhelp_med.federation.site_messages import SiteReport
from fedhelp_med.federation.workspace import Workspace
from fedhelp_med.handlers import ForwardDistillation, RankingDistillation
from fedhelp_med.networks import large_classifier, small_classifier

pytestmark = pytest.mark.benchmark

MIB = 1 << 20


def interleaved(*functions: Callable[[], object], repeats: int = 7) -> list[float]:
    """Time functions in turn, so that a noisy machine slows all alike; return the median seconds of each."""
    seconds: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(repeats):
        for times, function in zip(seconds, functions, strict=True):
            begin = time.perf_counter()
            function()
            times.append(time.perf_counter() - begin)
    return [statistics.median(times) for times in seconds]


def report(name: str, value: float, target: str) -> None:
    print(f"\n  {name}: {value:.3f} ({target})", flush=True)


def test_step_of_a_large_site():
    torch.set_num_threads(1)
    batches = [{"image": torch.randn(16, 8, 64, 64), "label": torch.randint(0, 2, (16,))} for _ in range(6)]

    def options(network):
        return {
            "device": "cpu",
            "max_epochs": 1,
            "train_data_loader": batches,
            "epoch_length": len(batches),
            "network": network,
            "optimizer": torch.optim.Adam(network.parameters()),
            "loss_function": torch.nn.CrossEntropyLoss(),
            "decollate": False,
        }

    def again(trainer):
        def run():
            trainer.state.epoch, trainer.state.max_epochs = 0, 1
            trainer.run()

        return run

    large = large_classifier(2, 8, 2)
    together = ReciprocalTrainer(
        large_network=large,
        large_optimizer=torch.optim.Adam(large.parameters()),
        train_handlers=[ForwardDistillation(1.0), RankingDistillation(0.2)],
        **options(small_classifier(2, 8, 2)),
    )
    alone = [SupervisedTrainer(**options(make(2, 8, 2))) for make in (large_classifier, small_classifier)]
    both, first, second = interleaved(again(together), again(alone[0]), again(alone[1]))
    report("large-site step / (large alone + proxy alone)", both / (first + second), "target 1.05")


class Watch(Silent):
    """From the end of round 1 (data are loaded then) on: the runner's seconds, and those of its engines."""

    def __init__(self):
        self.engines = self.runner = 0.0
        self._since = None

    def site_done(self, number, site, step, outcome):
        assert isinstance(outcome, SiteReport)
        if self._since is not None and step != "test":
            self.engines += outcome.engine_seconds

    def round_done(self, number, rows):
        if self._since is not None:
            self.runner += time.perf_counter() - self._since
        if number >= 1:
            self._since = time.perf_counter()


def test_runner_over_its_engines(tmp_path):
    sites = []
    for index, (name, role, training) in enumerate((("clinic", "small", 24), ("hospital", "large", 300))):
        write_site(tmp_path / name, training=training, validation=60, testing=100, seed=index)
        sites.append({"name": name, "role": role, "data": f"{name}/datalist.json"})
    content = {
        "name": "benchmark",
        "rounds": 6,
        "preset": "paper",
        "overrides": {"image_size": [64, 64]},
        "sites": sites,
    }
    path = tmp_path / "federation.yaml"
    path.write_text(yaml.safe_dump(content))
    watch = Watch()
    run_federation(load_federation(path), tmp_path / "run", observer=watch)
    report("runner / its trainers and evaluators, rounds 2-6", watch.runner / watch.engines, "target 1.03")
    rounds = [event for event in Workspace(tmp_path / "run").events() if event["event"] == "round"]
    sent = rounds[-1]["sites"]["hospital"]["bytes_sent"]
    large = (tmp_path / "run/sites/hospital/deployed/large.safetensors").stat().st_size
    report("bytes uploaded by a large site / size of its large network", sent / large, "smaller is better")


def test_aggregation_throughput(tmp_path):
    torch.set_num_threads(os.cpu_count() or 1)
    sites, elements = 6, 4_000_000
    states = {f"site-{i}": {"w": torch.randn(elements)} for i in range(sites)}
    weights = dict.fromkeys(states, 1 / sites)
    total = torch.zeros(elements)

    def plain():
        for state in states.values():
            torch.add(total, state["w"], out=total)

    for name, state in states.items():
        save_file(state, tmp_path / f"{name}.safetensors")

    def disk():
        aggregate({name: load_file(tmp_path / f"{name}.safetensors") for name in states}, weights)

    add, memory, stored = interleaved(plain, lambda: aggregate(states, weights), disk)
    size = sites * elements * 4 / MIB
    print(
        f"\n  torch.add_: {size / add:.0f} MiB/s, aggregation {size / memory:.0f} MiB/s, from disk {size / stored:.0f}"
    )
    report("aggregation throughput in memory / torch.add_ over the same bytes", add / memory, "target 0.25")
    report("aggregation throughput from disk / torch.add_ over the same bytes", add / stored, "reported")


def test_help_is_quick():
    fedhelp = Path(sys.executable).with_name("fedhelp")
    shown, torch_import = interleaved(
        lambda: subprocess.run([fedhelp, "--help"], check=True, capture_output=True),
        lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True),
        repeats=5,
    )
    report("fedhelp --help / import torch", shown / torch_import, "target 0.5")
