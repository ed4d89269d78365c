"""Bar charts as SVG, written by hand: a page of panels needs no plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

COLOURS = ("#7f8c8d", "#2e86c1", "#e67e22", "#8e44ad", "#27ae60")
PANEL_WIDTH, PANEL_HEIGHT, LEFT, TOP, BOTTOM = 420, 220, 60, 40, 40
COLUMNS = 2


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure: groups side by side, in each a bar per series. bars[group][series]; a missing bar is left out."""

    title: str
    bars: Mapping[str, Mapping[str, float]]


def svg(heading: str, panels: Sequence[Panel], series: Sequence[str]) -> str:
    """The page. Every bar bears its value."""
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * PANEL_WIDTH, 60 + rows * PANEL_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(10, 22, heading, size=15),
    ]
    for number, name in enumerate(series):
        x = 10 + number * 150
        parts += [f'<rect x="{x}" y="34" width="12" height="12" fill="{_colour(number)}"/>', _text(x + 17, 45, name)]
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        parts.append(f'<g transform="translate({column * PANEL_WIDTH},{60 + row * PANEL_HEIGHT})">')
        parts += [*_panel(panel, series), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Panel, series: Sequence[str]) -> list[str]:
    plot_width, plot_height = PANEL_WIDTH - LEFT - 15, PANEL_HEIGHT - TOP - BOTTOM
    top = max((value for bars in panel.bars.values() for value in bars.values()), default=0.0) or 1.0
    base = TOP + plot_height
    parts = [
        _text(LEFT, 24, panel.title, size=13),
        _text(LEFT - 6, TOP + 4, shown(top), anchor="end"),
        _text(LEFT - 6, base, "0", anchor="end"),
        f'<line x1="{LEFT}" y1="{base}" x2="{LEFT + plot_width}" y2="{base}" stroke="#333"/>',
    ]
    for place, (group, bars) in enumerate(panel.bars.items()):
        room = plot_width / len(panel.bars)
        width = room * 0.86 / max(1, len(series))
        start = LEFT + place * room + room * 0.07
        parts.append(_text(start + width * len(series) / 2, base + 16, group, anchor="middle"))
        for number, name in enumerate(series):
            if name not in bars:
                continue
            tall = plot_height * bars[name] / top
            x, y = start + number * width, base - tall
            fill = _colour(number)
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width * 0.92:.1f}" height="{tall:.1f}" fill="{fill}"/>'
            )
            parts.append(_text(x + width * 0.46, y - 3, shown(bars[name]), size=8, anchor="middle"))
    return parts


def shown(value: float) -> str:
    """A number with three digits that mean something."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _text(x: float, y: float, words: str, *, size: int = 11, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(words)}</text>'
