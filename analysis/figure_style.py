"""One look for every figure: palette, axes, and SVG that is inlined into a page and equal in every run."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from ..accel.energy import COMPONENTS

#: Okabe and Ito, "Color Universal Design" (2008): eight colours that all common kinds of colour vision tell apart.
BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
VERMILLION, PURPLE, YELLOW, GREY = "#D55E00", "#CC79A7", "#F0E442", "#8A8A8A"

#: DRAM, buses, the array and the outputs have the same colour in every figure.
COMPONENT_COLOURS = dict(zip(COMPONENTS, (VERMILLION, BLUE, SKY, PURPLE, ORANGE, YELLOW, GREEN, GREY), strict=True))
SPLIT_COLOURS = {
    "compute": GREEN,
    "dram_stall": VERMILLION,
    "load_stall": ORANGE,
    "output_stall": PURPLE,
    "fill_drain": GREY,
}
#: Names in legends, where they are not the identifier itself with spaces.
SHOWN_NAMES = {
    "dram": "DRAM",
    "mac": "MAC",
    "pe_memory": "PE memory",
    "dram_stall": "DRAM stall",
    "fill_drain": "fill and drain",
}
LANE_COLOURS = {"fetch": VERMILLION, "load": ORANGE, "compute": GREEN, "drain": PURPLE, "store": BLUE}
DESIGN_COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)
DESIGN_MARKERS = ("o", "s", "^", "D", "v", "P")

#: Stands for "the page's text colour" and "the page's background" until the SVG is written.
INK, PAPER = "#010203", "#fdfcfb"
WIDTH_INCH = 9.4
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nestling",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Geneva", "sans-serif"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.linewidth": 0.7,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "patch.linewidth": 0.0,
}


@dataclass(frozen=True)
class Picture:
    """A figure of the report: stable name, heading, one sentence that says how to read it, SVG text."""

    name: str
    title: str
    help: str
    svg: str


class Sheet:
    """A figure whose panels stand below each other at fixed places, so nothing depends on a layout solver.

    ``panels``: (height, space below) of each panel; all sizes in inches. The last panel's space below is ``bottom``.
    """

    def __init__(
        self,
        panels: Sequence[tuple[float, float]],
        *,
        left: float = 1.4,
        right: float = 0.7,
        top: float = 0.3,
        bottom: float = 0.6,
    ) -> None:
        self.total = top + sum(height + space for height, space in panels) - panels[-1][1] + bottom
        self.figure = Figure(figsize=(WIDTH_INCH, self.total))
        self.axes: list[Axes] = []
        at = self.total - top
        for height, space in panels:
            at -= height
            box = (left / WIDTH_INCH, at / self.total, (WIDTH_INCH - left - right) / WIDTH_INCH, height / self.total)
            self.axes.append(self.figure.add_axes(box))
            at -= space

    def legend(self, entries: Sequence[tuple[str, str]], *, columns: int) -> None:
        """Colour patches with names along the upper edge."""
        from matplotlib.patches import Patch

        handles = [Patch(facecolor=colour, label=label) for label, colour in entries]
        self.figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.01, 1.0),
            ncols=columns,
            handlelength=1.0,
            handleheight=1.0,
            columnspacing=1.3,
        )


def style() -> AbstractContextManager[None]:
    """Context in which every figure is drawn and saved; nothing stays changed afterwards."""
    return mpl.rc_context(_RC)


def to_svg(figure: Figure, name: str) -> str:
    """SVG text of a figure: no date, no size of its own, ids distinct per ``name``, colours that follow the page."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": f"nestling-{name}"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser has more fonts than we do
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)  # group names repeat in every figure of a page
    tag, rest = text.split(">", 1)
    text = re.sub(r' (?:width|height)="[^"]*"', "", tag) + ">" + rest  # the page decides how large it is
    text = re.sub(r'(?<= )(?:d|x|y|transform|x1|x2|y1|y2|width|height)="[^"]*"', _short, text)
    text = re.sub(r"\n\s*", "\n", text)
    return text.replace(INK, "currentColor").replace(PAPER, "var(--paper)")


def from_file(path: Path, title: str, help_text: str) -> Picture:
    """A figure that was saved as an SVG file, as a picture of a report."""
    text = path.read_text(encoding="utf-8")
    return Picture(path.stem, title, help_text, text[text.index("<svg") :])


def standalone(svg: str) -> str:
    """The SVG of :func:`to_svg` as a file of its own: dark on white, whatever page shows it."""
    text = svg.replace("currentColor", "#1f2328").replace("var(--paper)", "#ffffff")
    tag, rest = text.split(">", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{tag} style="background:#ffffff">{rest}'


def _short(attribute: re.Match[str]) -> str:
    """Coordinates to a hundredth of a point."""
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute.group())


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on ``colour`` (relative luminance, WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"


def lighter(colour: str) -> str:
    """Halfway to white."""
    red, green, blue = to_rgb(colour)
    return to_hex(((1 + red) / 2, (1 + green) / 2, (1 + blue) / 2))
