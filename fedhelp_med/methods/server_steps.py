"""What a server can do with public images and a foundation model's answers: a warm start, a gate, distillation.

None of it costs a clinic anything: the server has the public set, and no private image is involved.
"""

import math
from collections.abc import Mapping
from statistics import fmean, stdev

import torch
from torch import Tensor, nn

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.handlers import train_on_public
from fedhelp_med.losses import as_categorical
from fedhelp_med.methods.base import CLASS_COUNTS, Server
from fedhelp_med.metrics import chance_corrected, mean_recall


def knows_the_task(server: Server, labels_only: bool = False) -> bool:
    """Whether the foundation model or the public labels (or these alone) speak of the task's own classes."""
    knowledge = server.knowledge
    if knowledge is None or (labels_only and "label" not in knowledge.items[0]):
        return False
    return bool(knowledge.speaks_of(server.classes))


def trust(server: Server) -> float:
    """Return the factor of the weight of the foundation model's knowledge: below 1 with ``follow_quality`` only."""
    return float(getattr(server.knowledge, "trust", 1.0))


def warm_start(server: Server, steps: int, learning_rate: float = 1e-3, knowledge_weight: float = 1.0) -> None:
    """Train the initial global network on the foundation model's soft labels through its task head.

    Public labels, where there are any, add their cross-entropy; at ``knowledge_weight`` (lambda) 0 they are all that it
    learns from. Lambda is multiplied by the trust in the model. The learning rate decays to 0 along a cosine.
    """
    knowledge_weight *= trust(server)
    network = server.network()
    train_on_public(network, server.public_batches("warm start"), steps, learning_rate, weight=knowledge_weight)
    server.weights = _state(network, server.weights)
    server.record("warm_start", steps=steps, model=server.knowledge.model_name)


def zero_shot_gate(server: Server, threshold: float) -> bool:
    """Whether the warm-started network already recognises the sites' private images, which it never saw.

    The sites report counts per class, no image and no score of one. The pooled (balanced accuracy - 1/K) / (1 - 1/K)
    has to exceed ``threshold``: public sets of another domain do not pass. What the sites have together becomes the
    signal ``CLASS_COUNTS``.

    Raises:
        FedHelpError: when no site could count.
    """
    counts = server.count_recognised()
    if not counts:
        raise FedHelpError("zero-shot gate: no site could count what it recognises; see events.jsonl")
    score = pooled_score(counts)
    is_open = score > threshold
    server.signals[CLASS_COUNTS] = [
        sum(present for _, present in of_class) for of_class in zip(*counts.values(), strict=True)
    ]
    server.record("gate", score=round(score, 4), threshold=threshold, open=is_open, counts=dict(counts))
    return is_open


def pooled_score(counts: Mapping[str, list[tuple[int, int]]]) -> float:
    """Return (balanced accuracy - 1/K) / (1 - 1/K) over all sites' images pooled; 0 is chance, 1 perfect.

    Args:
        counts: by site, of each class the recognised and the present images. Without an image the score is 0.
    """
    by_class = zip(*counts.values(), strict=True)
    totals = [(sum(right for right, _ in sites), sum(present for _, present in sites)) for sites in by_class]
    return chance_corrected(mean_recall(totals), len(totals)) if any(present for _, present in totals) else 0.0


def distil_updates(server: Server, steps: int, learning_rate: float, use_knowledge: bool = True) -> None:
    """Distil the aggregate for some steps on public images.

    The teacher is one half the foundation model's probabilities and one half the mean of those of the uploaded
    networks: what the sites know survives the averaging of their weights (as in FedDF, Lin et al. 2020,
    arXiv 2006.07242). Less trust in the model makes its half smaller. Without the foundation model the uploaded
    networks are the whole teacher.
    """
    share = 0.5 * trust(server) if use_knowledge else 0.0
    teachers = [server.network(dict(update)).eval() for _, update in sorted(server.updates.items())]

    def target(image: Tensor, knowledge: Tensor | None) -> Tensor:
        with torch.no_grad():
            mean = torch.stack([as_categorical(teacher(image)).softmax(1) for teacher in teachers]).mean(0)
        if knowledge is not None and share:
            mean = (1 - share) * mean + share * as_categorical(knowledge).softmax(1)
        return mean.clamp_min(1e-12).log()

    network = server.network()
    batches = server.public_batches("distillation")
    train_on_public(network, batches, steps, learning_rate, target=target, labels=False, decay=False)
    server.weights = _state(network, server.weights)


def overtaken(server: Server) -> int | None:
    """Return the first round whose global network did better than the warm-started one, None while there is none.

    Better is a mean difference over the sites' validation splits of more than its standard error, for which it takes
    two sites. The sites report these results anyway; those of a site that failed in one of the two rounds do not count,
    nor undefined ones (the AUC of one class).
    """
    start = server.validation(0)
    for number in range(1, server.round):
        later = server.validation(number)
        gains = [later[site] - start[site] for site in sorted(start.keys() & later.keys())]
        gains = [gain for gain in gains if math.isfinite(gain)]
        if len(gains) > 1 and fmean(gains) > stdev(gains) / math.sqrt(len(gains)):
            return number
    return None


def _state(network: nn.Module, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = network.state_dict()
    return {key: state[key].detach().clone() for key in like}
