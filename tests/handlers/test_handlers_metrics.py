"""Metrics of a whole split in a real evaluator."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from torch import Tensor, nn

from fedhelp_med.handlers import SplitMetric
from fedhelp_med.metrics import accuracy, auc, balanced_accuracy


def two_classes(*scores: float) -> Tensor:
    """Logits ``N, 2`` whose difference is the score."""
    scored = torch.tensor(scores)
    return torch.stack([-scored / 2, scored / 2], 1)


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "auc": auc,
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
}


def evaluator(batches: list[dict[str, Any]], network: nn.Module) -> SupervisedEvaluator:
    first, *others = METRICS
    return SupervisedEvaluator(
        device="cpu",
        val_data_loader=batches,
        network=network,
        key_val_metric={first: SplitMetric(METRICS[first])},
        additional_metrics={name: SplitMetric(METRICS[name]) for name in others},
        decollate=False,
    )


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["tensor", "meta tensor", "column of labels"])
def test_an_evaluator_computes_each_metric_over_all_batches(classes: int, kind: str) -> None:
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(4, classes)), torch.randn(7, 1, 2, 2)
    labels = torch.tensor([0, 1, 1, 0, 1, 2, 0]).clamp_max(max(classes, 2) - 1)
    batches = [
        {
            "image": MetaTensor(image) if kind == "meta tensor" else image,
            "label": label[:, None] if kind == "column of labels" else label,
        }
        for image, label in zip(images.split(3), labels.split(3), strict=True)  # 3, 3 and 1 images
    ]
    run = evaluator(batches, network)
    run.run()
    with torch.no_grad():
        logits = network(images)
    expected = {name: metric(logits, labels) for name, metric in METRICS.items()}
    assert {name: run.state.metrics[name] for name in METRICS} == pytest.approx(expected)
    assert isinstance(run.state.metrics["auc"], float)
    per_batch = [auc(network(batch["image"]).detach(), batch["label"].reshape(-1)) for batch in batches]
    assert any(math.isnan(area) for area in per_batch)  # so an average over batches would not do


def test_a_second_run_forgets_the_first() -> None:
    network = nn.Flatten()  # the two pixels are the logits
    images = two_classes(-1, 1, 1, -1)[:, None]
    batches = [{"image": images, "label": torch.tensor([0, 1, 1, 0])}]
    run = evaluator(batches, network)
    run.run()
    assert run.state.metrics["accuracy"] == 1
    batches[0]["label"] = torch.tensor([1, 0, 0, 1])
    run.run()
    assert run.state.metrics["accuracy"] == 0


def test_batches_of_half_precision_with_a_graph_are_taken() -> None:
    metric = SplitMetric(accuracy)
    logits = two_classes(1, -1).half().requires_grad_()
    metric.update((logits, torch.tensor([1, 1], dtype=torch.int32)))
    metric.update((logits * 2, torch.tensor([1.0, 0.0])))
    assert metric.compute() == 0.75
