"""Axes of a plot drawn as SVG text: scales, ticks and a frame.

Drawn by hand rather than by matplotlib so that colors follow the reader's light or dark page, every dot can carry a
tooltip, and letters stay letters when a phone scales the picture down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 12, 12, 46


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] of the data onto [start, end] of the picture, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values within the scale, about six of them."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1, 2, 5), (1, 3), (1,)):
                found = [d * 10.0**e for e in decades for d in digits if self.low <= d * 10.0**e <= self.high]
                if len(found) <= 7:
                    break
            return found[:: math.ceil(len(found) / 7)] if found else [self.low, self.high]
        rough = (self.high - self.low) / 6
        magnitude = 10.0 ** math.floor(math.log10(rough))
        step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale(values: Iterable[float], start: float, end: float, log: bool = False, margin: float = 0.06) -> Scale:
    """A scale that holds `values` with a margin; an interval of no length is widened."""
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(finite), max(finite)) if finite else (1.0, 2.0)
    if log:
        factor = max((high / low) ** margin, 1.15)
        return Scale(low / factor, high * factor, start, end, log=True)
    space = (high - low) * margin or 0.5
    return Scale(low - space, high + space, start, end)


def number(value: float) -> str:
    """A tick's label: short, never exponents within the range that people read easily."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.6g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    digits = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}" if mantissa == "1" else f"{mantissa}·10{digits}"


def text(x: float, y: float, content: str, kind: str = "tick", anchor: str = "middle") -> str:
    """Letters on the picture; `content` is escaped."""
    return f'<text class="{kind}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(content)}</text>'


def segment(x: tuple[float, float], y: tuple[float, float], kind: str) -> str:
    """A straight line from (x[0], y[0]) to (x[1], y[1])."""
    return f'<line class="{kind}" x1="{x[0]:.1f}" x2="{x[1]:.1f}" y1="{y[0]:.1f}" y2="{y[1]:.1f}"/>'


def frame(x: Scale, y: Scale, x_label: str, y_label: str) -> str:
    """Grid lines, tick labels and the names of both axes."""
    parts = []
    for tick in x.ticks():
        parts.append(segment((x(tick), x(tick)), (y.start, y.end), "grid"))
        parts.append(text(x(tick), y.start + 17, number(tick)))
    for tick in y.ticks():
        parts.append(segment((x.start, x.end), (y(tick), y(tick)), "grid"))
        parts.append(text(x.start - 7, y(tick) + 4, number(tick), anchor="end"))
    parts.append(text((x.start + x.end) / 2, y.start + 37, x_label, "axis"))
    turned = f"translate(12 {(y.start + y.end) / 2:.1f}) rotate(-90)"
    parts.append(f'<g transform="{turned}">{text(0, 0, y_label, "axis")}</g>')
    return "".join(parts)


def dot(x: float, y: float, series: int, tip: str, hollow: bool = False) -> str:
    """A dot with a tooltip, in the color of its series."""
    kind = "hollow" if hollow else "dot"
    place = f'class="{kind} s{series % 8}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"'
    return f"<circle {place}><title>{escape(tip)}</title></circle>"


def picture(body: str, label: str, height: float = HEIGHT) -> str:
    """The SVG element around a drawing, with its description for readers who do not see it."""
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">{body}</svg>'


def legend(entries: Sequence[tuple[str, int]]) -> str:
    """Names of the series beside their colors."""
    items = "".join(f'<li><i class="s{series % 8}"></i>{escape(name)}</li>' for name, series in entries)
    return f'<ul class="legend">{items}</ul>'
