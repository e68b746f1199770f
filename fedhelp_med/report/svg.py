"""Figures as inline SVG: their text stays text, and their colours are those of the page, light or dark."""

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedhelp_med.common.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, SMALL, LARGE, THIRD, PAPER = COLOURS = tuple(f"#00000{number}" for number in range(1, 8))
"""Stand for the page's colours of these names, which ``inline`` puts in their places."""

NAMES = ("ink", "muted", "grid", "small", "large", "third", "paper")

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedhelp",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}

ENLARGED = 1.4
"""Pixels of a wide window for each unit of a picture: text of 9 units is then as large as the page's small print."""

EXTRA = "the report needs Jinja2 and matplotlib; pip install 'fedhelp-med[report]'"


@dataclass(frozen=True)
class Chart:
    """A drawn figure.

    Args:
        name: its id in the page.
        title: what it shows.
        alt: what a reader who cannot see it is told.
        svg: an ``<svg>`` element.
    """

    name: str
    title: str
    alt: str
    svg: str


@contextmanager
def drawing(height: float, width: float = 4.6) -> "Iterator[Figure]":
    """Yield an empty figure under the style of the pages.

    Args:
        height: in inches; 72 units of the picture.
        width: in inches.

    Raises:
        InputError: matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(EXTRA) from None
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def inline(figure: "Figure", alt: str) -> str:
    """Return a figure as an ``<svg>`` element for the midst of a page; call it inside ``drawing``.

    Ids that nothing refers to are dropped and the others made the figure's own: a page holds many figures.
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    width, height = (72 * inches for inches in figure.get_size_inches())
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    own = "f" + hashlib.sha256(body.encode()).hexdigest()[:8]
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: f' id="{own}{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{own}", body)
    body = re.sub(r'( d="[^"]*")', lambda found: _rounded(found[1]), body)
    for colour, name in zip(COLOURS, NAMES, strict=True):
        body = body.replace(colour, f"var(--{name})")
    body = re.sub(r">\s+<", "><", body.replace("\n", " ")).strip()
    box = f'viewBox="0 0 {width:g} {height:g}" width="{width * ENLARGED:.0f}"'
    return f'<svg {box} role="img" aria-label="{_quoted(alt)}">{body}'


def name_rows(axes: "Axes", names: Sequence[str]) -> None:
    """Make a chart of rows, the first on top, each with its name."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def _rounded(path: str) -> str:
    return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), path)


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
