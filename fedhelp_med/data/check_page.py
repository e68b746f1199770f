"""A page for a browser: what was checked, with a thumbnail of every image."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fedhelp_med.common.errors import InputError
from fedhelp_med.data.check import ImageFacts, Problem, SiteCheck

SIDE = 112  # pixels
MOST = 400  # thumbnails in a page
COLOUR = np.array([255, 176, 0])

TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Data check</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
 table { border-collapse: collapse } td, th { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top }
 figure { display: inline-block; width: 120px; margin: 0 .4rem .8rem 0; vertical-align: top }
 figcaption { font-size: 11px; overflow-wrap: anywhere; color: #555 } img { background: #000 }
 .error { color: #a40000 } .warning { color: #8a5a00 }
</style>
<h1>Data check</h1>
<p>{{ images }} images of {{ sites | length }} site(s);
 <b class="{{ 'error' if errors else '' }}">{{ errors }} error(s)</b>, {{ warnings }} warning(s).</p>
{% if problems %}<h2>What is wrong</h2>
<table><tr><th>Site<th>Where<th>What</tr>
{% for problem in problems %}
<tr class="{{ problem.level }}"><td>{{ problem.site }}<td>{{ problem.path }}<td>{{ problem.reason }}</tr>
{% endfor %}</table>{% endif %}
{% for site in sites %}<h2>{{ site.name }}</h2>
{% for thumbnail in thumbnails[site.name] %}
<figure><img width="112" src="data:image/png;base64,{{ thumbnail.picture }}" alt="">
<figcaption>{{ thumbnail.caption }}</figcaption></figure>
{% endfor %}
{% if thumbnails[site.name] | length < site.images | length %}
<p>{{ site.images | length - thumbnails[site.name] | length }} more are not shown.</p>
{% endif %}{% endfor %}
</html>
"""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture in base64, and what stands below it."""

    picture: str
    caption: str


class Thumbnails:
    """Draws a thumbnail of each image that it is shown, up to a number of them.

    Args:
        most: thumbnails in all.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.by_site: dict[str, list[Thumbnail]] = {}

    def __call__(self, facts: ImageFacts, values: npt.NDArray[Any], mask: npt.NDArray[np.int64] | None) -> None:
        """Draw the middle slice, with the outline of the mask."""
        if sum(map(len, self.by_site.values())) >= self.most:
            return
        label = facts.label if isinstance(facts.label, int) else ""
        caption = f"{facts.split} {label} {facts.patient or facts.path.rpartition('/')[2]} {facts.shape}"
        picture = Image.fromarray(draw(values, mask))
        picture.thumbnail((SIDE, SIDE))
        content = io.BytesIO()
        picture.save(content, format="PNG")
        thumbnail = Thumbnail(base64.b64encode(content.getvalue()).decode(), caption)
        self.by_site.setdefault(facts.site, []).append(thumbnail)


def draw(values: npt.NDArray[Any], mask: npt.NDArray[np.int64] | None) -> npt.NDArray[np.uint8]:
    """Return an image's middle slice as ``H, W, 3``, from its 1st to its 99th percentile.

    Of a mask the slice with most marked voxels is taken, and its outline drawn.
    """
    colour = values.ndim == 3 and values.shape[2] in (3, 4)
    level = values.shape[2] // 2 if values.ndim > 2 and not colour else None
    plane = None
    if mask is not None and mask.ndim > 2 and level is not None and mask.shape[:3] == values.shape[:3]:
        level = int((mask > 0).sum(axis=(0, 1)).reshape(mask.shape[2], -1)[:, 0].argmax())
        plane = mask[:, :, level]
    elif mask is not None and mask.ndim == 2:
        plane = mask
    shown = values[..., :3] if colour else values if level is None else values[:, :, level]
    while shown.ndim > (3 if colour else 2):
        shown = shown[..., 0]
    low, high = np.percentile(shown, [1, 99])
    grey = np.clip((shown - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    picture = grey if colour else np.repeat(grey[..., None], 3, axis=2)
    if plane is not None:
        marked = np.pad(plane.reshape(plane.shape[:2]) > 0, 1)
        inner = marked[:-2, 1:-1] & marked[2:, 1:-1] & marked[1:-1, :-2] & marked[1:-1, 2:]
        picture[marked[1:-1, 1:-1] & ~inner] = COLOUR
    return np.ascontiguousarray(picture.transpose(1, 0, 2))


def page(sites: Sequence[SiteCheck], problems: Sequence[Problem], thumbnails: Thumbnails) -> str:
    """Return the page as HTML.

    Raises:
        InputError: Jinja2 is missing.
    """
    try:
        from jinja2 import Environment
    except ImportError:
        raise InputError("--html needs Jinja2; pip install 'fedhelp-med[report]'") from None
    return (
        Environment(autoescape=True)
        .from_string(TEMPLATE)
        .render(
            sites=sites,
            images=sum(len(site.images) for site in sites),
            problems=problems,
            errors=sum(problem.level == "error" for problem in problems),
            warnings=sum(problem.level == "warning" for problem in problems),
            thumbnails={site.name: thumbnails.by_site.get(site.name, []) for site in sites},
        )
    )
