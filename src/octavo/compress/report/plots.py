"""The report's four plots, each a pure function from the data to a piece of HTML."""

from __future__ import annotations

import math
import re
from html import escape

from octavo.compress.report.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    dot,
    frame,
    legend,
    picture,
    scale,
    segment,
    text,
)
from octavo.compress.report.data import Point, ReportData, Result, TensorRow

X_START, X_END = LEFT, WIDTH - RIGHT
Y_START, Y_END = HEIGHT - BOTTOM, TOP
STORED = "compressed model, as stored"


def pareto(data: ReportData) -> str:
    """Divergence against bits per weight of everything that was tried; the compressed models are joined by a line."""
    kept = [Point(r.name, STORED, r.file_bits, r.divergence, r.divergence_error) for r in data.results]
    points = [point for point in (*kept, *data.points) if point.divergence > 0]
    if not points:
        return ""
    coded = [r for r in data.results if r.resident_bits > r.file_bits + 0.005 and r.divergence > 0]
    x = scale([p.bits for p in points] + [r.resident_bits for r in coded], X_START, X_END)
    y = scale([p.divergence for p in points], Y_START, Y_END, log=True)
    series = list(dict.fromkeys(point.series for point in points))
    body = [frame(x, y, "bits per weight", "KL to the original, nats/token (log)")]
    for result in coded:
        height = y(result.divergence)
        body.append(segment((x(result.file_bits), x(result.resident_bits)), (height, height), "reach"))
        tip = f"{result.name}: {result.resident_bits:.3f} bits per weight in memory"
        body.append(dot(x(result.resident_bits), height, 0, tip, hollow=True))
    for number, name in enumerate(series):
        line = sorted((p for p in points if p.series == name), key=lambda point: point.bits)
        if name == STORED:
            joints = " ".join(f"{x(p.bits):.1f},{y(p.divergence):.1f}" for p in line)
            body.append(f'<polyline class="line s{number % 8}" points="{joints}"/>')
        body += [_point(p, x(p.bits), y, number) for p in line]
    for point in kept:
        if point.divergence > 0:
            body.append(text(x(point.bits) + 8, y(point.divergence) - 7, f"{point.divergence:.3f}", "label", "start"))
    keys = legend([(name, number) for number, name in enumerate(series)])
    note = '<p class="note">A hollow dot is the same model in memory, its entropy code undone.</p>' if coded else ""
    return picture("".join(body), "KL divergence against bits per weight") + keys + note


def _point(point: Point, x: float, y: Scale, series: int) -> str:
    kl, error = point.divergence, point.divergence_error
    tip = f"{point.label}: {point.bits:.3f} bits per weight, KL {kl:.4f} ± {error:.4f} nats per token"
    bar = segment((x, x), (y(kl - error), y(kl + error)), f"bar s{series % 8}") if 0 < error < kl else ""
    return bar + dot(x, y(kl), series, tip)


def depth_and_kind(name: str) -> tuple[int | None, str]:
    """The layer a tensor belongs to (its first number) and what it is there: `model.layers.3.mlp.up_proj.weight` is
    (3, "mlp.up_proj")."""
    stem = name.removesuffix(".weight")
    found = re.search(r"(?:^|\.)(\d+)\.", stem)
    if found is None:
        return None, stem
    return int(found.group(1)), re.sub(r"\.\d+(?=\.|$)", "", stem[found.end() :]) or stem


def bits_by_depth(result: Result, low: float, high: float) -> str:
    """A map of bits per weight: a row for each kind of tensor, a column for each layer; shades run from low to high."""
    cells: dict[tuple[str, int], list[TensorRow]] = {}
    for row in result.tensors:
        depth, kind = depth_and_kind(row.name)
        if depth is not None:
            cells.setdefault((kind, depth), []).append(row)
    if not cells:
        return ""
    kinds = list(dict.fromkeys(kind for kind, _ in cells))
    depths = sorted({depth for _, depth in cells})
    left, height = 138, 19
    width = (WIDTH - left - RIGHT) / len(depths)
    body = [text(left - 7, TOP + i * height + 14, _shorten(kind), anchor="end") for i, kind in enumerate(kinds)]
    for (kind, depth), rows in cells.items():
        x, y = left + depths.index(depth) * width, TOP + kinds.index(kind) * height
        weights = sum(math.prod(row.shape) for row in rows)
        bits = sum(math.prod(row.shape) * row.file_bits for row in rows) / weights
        share = min(max((bits - low) / (high - low), 0.0), 1.0) if high > low else 0.5
        what = rows[0].format if len(rows) == 1 else f"{len(rows)} tensors"
        tip = escape(f"{kind}, layer {depth}: {bits:.3f} bits per weight, {what}")
        box = f'x="{x:.1f}" y="{y}" width="{max(width - 1, 0.8):.1f}" height="{height - 1}"'
        body.append(f'<rect class="heat" style="--share:{100 * share:.0f}%" {box}><title>{tip}</title></rect>')
    bottom = TOP + len(kinds) * height
    for j in range(0, len(depths), math.ceil(len(depths) / 12)):
        body.append(text(left + (j + 0.5) * width, bottom + 16, str(depths[j])))
    body.append(text((left + X_END) / 2, bottom + 36, "layer", "axis"))
    return picture("".join(body), f"bits per weight of each tensor of {result.name}", bottom + 44)


def heat_key(low: float, high: float) -> str:
    """The key of the shades of `bits_by_depth`."""
    shades = "".join(f'<i class="heat" style="--share:{share}%"></i>' for share in range(0, 101, 10))
    return f'<p class="key"><span>{low:.2f}</span>{shades}<span>{high:.2f} bits per weight</span></p>'


def error_by_depth(results: tuple[Result, ...]) -> str:
    """Signal-to-noise ratio of each tensor over its layer, a color for each compressed model."""
    dots = []
    for series, result in enumerate(results):
        for row in result.tensors:
            depth, kind = depth_and_kind(row.name)
            if depth is not None and row.sqnr is not None:
                tip = f"{result.name}, {kind}, layer {depth}: {row.sqnr:.2f} dB at {row.file_bits:.2f} bits"
                dots.append((depth, row.sqnr, series, tip))
    if not dots:
        return ""
    x = scale([d[0] for d in dots], X_START, X_END, margin=0.02)
    y = scale([d[1] for d in dots], Y_START, Y_END)
    marks = "".join(dot(x(depth), y(value), series, tip) for depth, value, series, tip in dots)
    body = frame(x, y, "layer", "SQNR, dB (more is better)") + marks
    keys = legend([(result.name, number) for number, result in enumerate(results)])
    return picture(body, "signal to quantization noise of each tensor") + keys


def predicted_against_measured(results: tuple[Result, ...]) -> str:
    """Predicted loss of each tensor against the loss measured with that tensor alone compressed; truth is diagonal."""
    dots = []
    for series, result in enumerate(results):
        for row in result.tensors:
            predicted, measured = row.predicted_loss or 0.0, row.measured_loss or 0.0
            if predicted > 0 and measured > 0:
                tip = f"{result.name}, {row.name}: predicted {predicted:.2e}, measured {measured:.2e}"
                dots.append((predicted, measured, series, tip))
    if not dots:
        return ""
    both = [d[0] for d in dots] + [d[1] for d in dots]
    x, y = scale(both, X_START, X_END, log=True), scale(both, Y_START, Y_END, log=True)
    diagonal = segment((x.start, x.end), (y.start, y.end), "reach")
    marks = "".join(dot(x(predicted), y(measured), series, tip) for predicted, measured, series, tip in dots)
    body = frame(x, y, "predicted KL, nats/token (log)", "measured KL, nats/token (log)") + diagonal + marks
    keys = legend([(results[number].name, number) for number in sorted({d[2] for d in dots})])
    return picture(body, "predicted against measured loss") + keys


def _shorten(kind: str, most: int = 19) -> str:
    return kind if len(kind) <= most else "…" + kind[-(most - 1) :]
