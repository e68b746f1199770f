"""What a site is told before a run, and what it tells after every step of it."""

from dataclasses import dataclass, field
from pathlib import Path

from fedhelp_med.federation.config import Upload
from fedhelp_med.federation.deployment import Choice
from fedhelp_med.federation.tracking import Following
from fedhelp_med.federation.workspace import Row
from fedhelp_med.methods import Exchange, Role
from fedhelp_med.networks import LocalLayers


@dataclass(frozen=True)
class SiteJob:
    """Everything that a site's process has to know; plain values, so that it can be sent to one.

    Args:
        name: the site's.
        role: ``small`` or ``large``.
        bundle: the bundle's folder.
        configs: the config files that the site executes: the bundle's, relative to it, then the site's own overlay.
        folder: the site's in the run folder.
        seed: the federation's.
        rounds: how many there will be.
        local_epochs: per round.
        samples: training images, by which the server may weight the site.
        splits: those that have an image.
        validation_patients: the number of each validation study's patient, from 0.
        has_large: whether there is a large network that never leaves the site.
        trained: what ``metrics.csv`` calls the trainer's ``network``.
        deployed: the networks whose probabilities are averaged by default.
        keep_optimizer: keep the state of the exchanged network's optimiser across rounds.
        exchange: what travels: ``weights``, ``predictions`` or ``nothing``.
        upload: ``weights``, or their ``differences`` to the downloaded ones.
        local_layers: layers that are not exchanged.
        chooses: whether the site's validation studies may decide for other networks than ``deployed``.
        offset: added to the deployed network's logits, one number a class; empty for nothing.
        reference: the file of the site's local-only network, a candidate for deployment; None where there is none.
        threads: torch's.
        timeout: seconds after which a step of the site fails; None for never.
        following: how the site is followed live; None for not at all.
    """

    name: str
    role: Role
    bundle: str
    configs: tuple[str, ...]
    folder: Path
    seed: int
    rounds: int
    local_epochs: int
    samples: int
    splits: tuple[str, ...]
    validation_patients: tuple[int, ...]
    has_large: bool
    trained: str
    deployed: tuple[str, ...]
    keep_optimizer: bool
    exchange: Exchange
    upload: Upload
    local_layers: LocalLayers
    chooses: bool
    offset: tuple[float, ...]
    reference: Path | None
    threads: int
    timeout: float | None
    following: Following | None


@dataclass
class SiteReport:
    """What a site tells after a step: it trained, evaluated, counted, or was tested.

    Attributes:
        rows: of ``metrics.csv``.
        samples: training images; 0 for a step without training.
        seconds: of the whole step.
        engine_seconds: of it, those in training and evaluation.
        bytes_sent: the size of the update.
        loss: the mean training loss of the round, with the method's terms.
        loss_terms: the mean weighted value of each of these terms.
        counts: of each class, the recognised and the present training images.
        choice: what the site deploys and why, where its validation studies decided.
    """

    rows: list[Row] = field(default_factory=list)
    samples: int = 0
    seconds: float = 0.0
    engine_seconds: float = 0.0
    bytes_sent: int = 0
    loss: float | None = None
    loss_terms: dict[str, float] = field(default_factory=dict)
    counts: list[tuple[int, int]] = field(default_factory=list)
    choice: Choice | None = None
