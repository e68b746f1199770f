"""Example predictions with overlays, where the data of a run are on this machine; never a path or a patient."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedhelp_med.common.errors import FedHelpError
from fedhelp_med.data.datalist import Item, read_datalist
from fedhelp_med.export.deployed import read_deployed
from fedhelp_med.losses import as_categorical
from fedhelp_med.methods import ROLES
from fedhelp_med.report.gather import RunFacts
from fedhelp_med.report.pictures import heated, marked, plane, tiled
from fedhelp_med.report.statistics import Floats, mean_of_defined
from fedhelp_med.report.studies import dice, probabilities

SITES_PER_ROLE = 2
ELSEWHERE = "None: the testing studies are not on this machine, or the run keeps no results of single studies."
LEFT_OUT = "Left out on request (--no-examples)."
BATCH = 32
HIDDEN_PART = 6
"""An image's side is so many times that of the square that is hidden; a volume's half as many times."""


@dataclass(frozen=True)
class Example:
    """A picture of a study with what was said of it.

    Args:
        picture: PNG in base64.
        width: in pixels.
        height: in pixels.
        alt: what a reader who cannot see it is told.
        verdict: ``right``, ``wrong``, ``best`` or ``worst`` as a person reads it.
        right: whether it is one of the good ones.
        caption: below the picture.
    """

    picture: str
    width: int
    height: int
    alt: str
    verdict: str
    right: bool
    caption: str


def find_examples(facts: RunFacts) -> list[Example]:
    """Return pictures of good and bad answers of some sites; empty where the data are not here.

    A site whose data or networks cannot be read has none: a report does not depend on pictures.
    """
    found: list[Example] = []
    for site in _some_sites(facts):
        try:
            found += _examples(facts, site)
        except (FedHelpError, OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError):
            continue  # a bundle of one's own may hold anything
    return found


def _some_sites(facts: RunFacts) -> list[str]:
    chosen: list[str] = []
    for role in ROLES:
        chosen += [site.site for site in facts.sites if site.role == role and site.site in facts.studies][
            :SITES_PER_ROLE
        ]
    return chosen


def _examples(facts: RunFacts, site: str) -> list[Example]:
    table = facts.studies[site]
    deployed = read_deployed(facts.folder, site)
    items = read_datalist(deployed.datalist, require=()).splits.get("testing", [])
    if len(items) != len(next(iter(table.values()))):  # another datalist by now
        return []
    parser = deployed.parser("train.json")
    prepare = parser.get_parsed_content("validate#preprocessing")
    network = deployed.network()
    if facts.classifies:
        return [_classified(site, index, items, prepare, network, table, facts.classes) for index in _surest(table)]
    inferer = parser.get_parsed_content("validate#inferer")
    scores = mean_of_defined(dice(table), 1)
    picks = [int(np.nanargmax(scores)), int(np.nanargmin(scores))]
    return [
        _outlined(site, index, items[index], prepare, network, inferer, scores[index], place == 0)
        for place, index in enumerate(dict.fromkeys(picks))
    ]


def _surest(table: Mapping[str, Floats]) -> Iterable[int]:
    """Yield the surest right and the surest wrong answer, where there is one."""
    found = probabilities(table)
    right = found.argmax(1) == table["label"]
    for kind in (right, ~right):
        if kind.any():
            yield int(np.where(kind, found.max(1), -1).argmax())


def _classified(
    site: str,
    index: int,
    items: Sequence[Item],
    prepare: Any,
    network: Any,
    table: Mapping[str, Floats],
    classes: Sequence[str],
) -> Example:
    image = torch.as_tensor(prepare(items[index])["image"]).float()
    found = probabilities(table)[index]
    said, truth = int(found.argmax()), int(table["label"][index])
    level = _telling_channel(network, image, said)
    importance = _importance(network, image, said)
    depth = int(importance.sum((0, 1)).argmax()) if importance.ndim == 3 else None
    shown = plane(image, level, depth)
    heat = importance if depth is None else importance[..., depth]
    picture, width, height = tiled([shown, heated(shown, heat.numpy())], columns=2)
    right = said == truth
    told = f"said {classes[said]} ({found[said]:.2f}), truth {classes[truth]}"
    caption = f"{site}, test study {index}: {told}"
    alt = f"{caption}. Beside it the same image with the parts marked on which the answer depends."
    return Example(picture, width, height, alt, "Right, and sure" if right else "Wrong, and sure", right, caption)


def _outlined(
    site: str, index: int, item: Item, prepare: Any, network: Any, inferer: Any, score: float, best: bool
) -> Example:
    ready = prepare(item)
    image, truth = torch.as_tensor(ready["image"]).float(), torch.as_tensor(ready["label"])[0].long()
    with torch.inference_mode():
        answer = as_categorical(torch.as_tensor(inferer(image[None], network))).argmax(1)[0]
    depth = int((truth > 0).sum((0, 1)).argmax()) if truth.ndim == 3 else None
    if depth is not None:
        truth, answer = truth[..., depth], answer[..., depth]
    shown = plane(image, None, depth)
    views = [shown, marked(shown, truth.numpy()), marked(shown, answer.numpy())]
    views.append(marked(shown, np.where((truth != answer).numpy(), -1, 0)))
    picture, width, height = tiled(views, columns=2)
    caption = f"{site}, test study {index}: Dice {score:.3f}"
    alt = f"{caption}. Four views: the image, the truth, the network's answer, and where they differ."
    return Example(picture, width, height, alt, "Best" if best else "Worst", best, caption)


def _certainty(network: Any, images: Tensor, said: int) -> Tensor:
    with torch.inference_mode():
        certainty: Tensor = as_categorical(network(images)).softmax(1)[:, said]
    return certainty


def _telling_channel(network: Any, image: Tensor, said: int) -> int | None:
    """Return the slice without which the answer changes most; None where channels are no slices."""
    channels = image.shape[0]
    if channels in (1, 3, 4):
        return None
    without = image.repeat(channels, *(1,) * image.ndim)
    for channel in range(channels):
        without[channel, channel] = image[channel].mean()
    return int(_certainty(network, without, said).argmin())


def _importance(network: Any, image: Tensor, said: int) -> Tensor:
    """Return by how much the answer loses certainty when a part is hidden, ``H, W[, D]``, at least 0.

    Occlusion: Zeiler and Fergus, "Visualizing and understanding convolutional networks", 2014, section 4.2.
    """
    size = max(2, min(image.shape[1:]) * (image.ndim - 2) // HIDDEN_PART)  # of a volume larger parts, not more
    starts = [sorted({*range(0, side - size, max(1, 2 * size // 3)), side - size}) for side in image.shape[1:]]
    places = [(slice(None), *(slice(begin, begin + size) for begin in begins)) for begins in product(*starts)]
    total, counts = torch.zeros(image.shape[1:]), torch.zeros(image.shape[1:])
    for first in range(0, len(places), BATCH):
        some = places[first : first + BATCH]
        images = image.repeat(len(some), *(1,) * image.ndim)
        for copy, place in zip(images, some, strict=True):
            copy[place] = image[place].mean()
        for place, certainty in zip(some, _certainty(network, images, said), strict=True):
            total[place[1:]] += certainty
            counts[place[1:]] += 1
    return (_certainty(network, image[None], said)[0] - total / counts).clamp_min(0)
