"""Small drawings as SVG in the page's own text: they print, follow light and dark by class, and need no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from himari_rl.schema import FloatArray

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34


@dataclass(kw_only=True)
class Plot:
    """One drawing in data coordinates. `svg()` is the element."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str = ""
    y_label: str = ""
    x_names: Sequence[str] = ()
    """Instead of numbers along x, at 0, 1, ..."""
    says: str = ""
    """For those who cannot see it."""
    decimals: int | None = None
    """Of the numbers along y; as many as they need if not given."""
    _parts: list[str] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        (x0, x1), (y0, y1) = self.x, self.y
        across = (x - x0) / ((x1 - x0) or 1.0) * (WIDTH - LEFT - RIGHT)
        up = (y - y0) / ((y1 - y0) or 1.0) * (HEIGHT - TOP - BOTTOM)
        return LEFT + across, HEIGHT - BOTTOM - up

    def line(self, x: Sequence[float], y: Sequence[float], style: str) -> Plot:
        """A line through the points whose y is a number.

        Args:
            style: classes of style.css, such as "c-policy".
        """
        spots = [self.at(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in spots)
        self._parts.append(f'<polyline class="line {style}" points="{points}"/>')
        return self

    def dots(self, x: Sequence[float], y: Sequence[float], style: str) -> Plot:
        for a, b in zip(x, y, strict=True):
            across, up = self.at(a, b)
            self._parts.append(f'<circle class="dot {style}" cx="{across:.1f}" cy="{up:.1f}" r="3.5"/>')
        return self

    def band(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], style: str) -> Plot:
        there = [self.at(a, b) for a, b in zip(x, high, strict=True)]
        back = [self.at(a, b) for a, b in zip(x, low, strict=True)][::-1]
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in (*there, *back))
        self._parts.append(f'<polygon class="band {style}" points="{points}"/>')
        return self

    def bar(self, left: float, right: float, low: float, high: float, style: str) -> Plot:
        (x0, y1), (x1, y0) = self.at(left, low), self.at(right, high)
        box = f'x="{x0:.1f}" y="{y0:.1f}" width="{max(x1 - x0, 0.5):.1f}" height="{max(y1 - y0, 0.0):.1f}"'
        self._parts.append(f'<rect class="bar {style}" {box}/>')
        return self

    def upright(self, x: float, label: str, style: str) -> Plot:
        """A vertical mark with its name."""
        across, _ = self.at(x, 0.0)
        anchor = "end" if across > WIDTH * 0.7 else "start"
        shift = -4 if anchor == "end" else 4
        self._parts.append(
            f'<line class="mark {style}" x1="{across:.1f}" x2="{across:.1f}" y1="{TOP}" '
            f'y2="{HEIGHT - BOTTOM}"/>'
            f'<text x="{across + shift:.1f}" y="{TOP + 10}" text-anchor="{anchor}">{label}</text>'
        )
        return self

    def svg(self) -> str:
        """The element with its axes."""
        own = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_safe(self.says)}">']
        for value in ticks(*self.y):
            _, up = self.at(self.x[0], value)
            own.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up:.1f}" y2="{up:.1f}"/>')
            own.append(f'<text x="{LEFT - 6}" y="{up + 4:.1f}" text-anchor="end">{self._number(value)}</text>')
        names: list[tuple[float, str]] = [(float(k), name) for k, name in enumerate(self.x_names)] or [
            (value, _short(value)) for value in ticks(*self.x)
        ]
        for at, name in names:
            across, _ = self.at(at, self.y[0])
            own.append(f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{_safe(name)}</text>')
        if self.x_label:
            middle = (LEFT + WIDTH - RIGHT) / 2
            place = f'x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle"'
            own.append(f'<text class="axis" {place}>{_safe(self.x_label)}</text>')
        if self.y_label:
            turned = f'transform="translate(11,{(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)"'
            own.append(f'<text class="axis" {turned} text-anchor="middle">{_safe(self.y_label)}</text>')
        return "".join([*own, *self._parts, "</svg>"])

    def _number(self, value: float) -> str:
        return _short(value) if self.decimals is None else _minus(f"{value:.{self.decimals}f}")


def histogram(values: FloatArray, bins: int = 41) -> tuple[FloatArray, FloatArray]:
    """Edges (B + 1,) and counts (B,); what lies beyond the middle 99 % counts in the outermost bins."""
    low, high = np.percentile(values, (0.5, 99.5))
    reach = max(abs(low), abs(high), 1e-9)
    edges = np.linspace(-reach, reach, bins + 1)
    counts, _ = np.histogram(np.clip(values, -reach, reach), edges)
    return edges, counts.astype(float)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two bounds: 1, 2 or 5 times a power of ten apart."""
    span = high - low
    if not span > 0.0:
        return [low]
    rough = span / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1.0 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(value: float) -> str:
    return _minus(f"{value + 0.0:.4g}")


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _safe(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
