"""The report as one HTML page that needs nothing beside itself: no script runs and nothing is fetched."""

from __future__ import annotations

import math
from html import escape
from importlib.resources import files
from string import Template

from octavo.base.units import format_size
from octavo.compress.report.data import ReportData, Result
from octavo.compress.report.plots import bits_by_depth, error_by_depth, heat_key, pareto, predicted_against_measured


def render(data: ReportData) -> str:
    """The page's HTML. Every text that came from outside is escaped."""
    template = Template((files("octavo.compress.report") / "template.html").read_text(encoding="utf-8"))
    sections = [
        _section("What was lost", f"Measured on {escape(data.text)}.", _summary(data) + _coverage(data)),
        _section(
            "Loss against size",
            "Divergence of the compressed model from the original, over the bits stored for each compressed weight, "
            "scales, codebooks, tables and padding included. Lower and further left is better.",
            _figure(pareto(data)),
        ),
        _section(
            "Where the bits went",
            "Bits per weight of each tensor, by layer; the stronger the color, the more bits.",
            _bits(data.results),
        ),
        _section(
            "Error of each tensor",
            "Signal over quantization noise. A small error is not the aim: bits go where the output feels them.",
            _figure(error_by_depth(data.results)),
        ),
        _section(
            "Predicted against measured",
            "One dot a tensor: the loss the plan predicted, and the loss measured with only that tensor compressed.",
            _figure(predicted_against_measured(data.results)),
        ),
        _section("In its own words", f"Continuations of <q>{escape(data.prompt)}</q>", _samples(data)),
        _section("The plans", "", "".join(_plan(result) for result in data.results if result.tensors)),
    ]
    return template.substitute(
        title=escape(data.title),
        subject=escape(data.subject),
        body="\n".join(sections),
        footer=_footer(data),
        # A closing tag within a sample must not end the element that carries the data.
        data=data.to_json().replace("<", "\\u003c"),
    )


def _section(heading: str, introduction: str, content: str) -> str:
    if not content:
        return ""
    return f"<section><h2>{heading}</h2>{f'<p>{introduction}</p>' if introduction else ''}{content}</section>"


def _figure(content: str) -> str:
    return f"<figure>{content}</figure>" if content else ""


def _row(cells: list[str], tag: str = "td", left: tuple[int, ...] = (0, 8)) -> str:
    marks = "".join(f"<{tag}{' class=left' if i in left else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
    return f"<tr>{marks}</tr>"


HEADS = (
    "model",
    "bits/weight<br>stored",
    "bits/weight<br>in memory",
    "file",
    "KL<br>nats/token",
    "same top<br>token",
    "perplexity",
    "seconds",
    "format",
)


def _summary(data: ReportData) -> str:
    original = data.original
    bits, size = f"{original.bits:.2f}", format_size(original.file_bytes)
    rows = [_row([escape(original.name), bits, bits, size, "0", "100 %", f"{original.perplexity:.2f}", "", ""])]
    for result in data.results:
        rows.append(
            _row(
                [
                    escape(result.name),
                    f"{result.file_bits:.3f}",
                    f"{result.resident_bits:.3f}",
                    format_size(result.file_bytes),
                    f"{result.divergence:.4f} ± {result.divergence_error:.4f}",
                    f"{100 * result.agreement:.1f} ± {100 * result.agreement_error:.1f} %",
                    f"{result.perplexity:.2f}",
                    f"{result.seconds:.0f}",
                    escape(result.format),
                ]
            )
        )
    return f'<div class="wide"><table>{_row(list(HEADS), "th")}{"".join(rows)}</table></div>'


def _coverage(data: ReportData) -> str:
    lines = dict.fromkeys(result.coverage for result in data.results if result.coverage)
    return "".join(f'<p class="coverage">{escape(line)}</p>' for line in lines)


def _bits(results: tuple[Result, ...]) -> str:
    values = [row.file_bits for result in results for row in result.tensors]
    if not values:
        return ""
    low, high = min(values), max(values)
    maps = [(result, bits_by_depth(result, low, high)) for result in results]
    figures = "".join(f"<h3>{escape(result.name)}</h3>{drawing}" for result, drawing in maps if drawing)
    return _figure(figures + heat_key(low, high)) if figures else ""


def _samples(data: ReportData) -> str:
    texts = [(data.original.name, data.original.sample), *((result.name, result.sample) for result in data.results)]
    cards = [f"<blockquote><h3>{escape(name)}</h3><p>{escape(text)}</p></blockquote>" for name, text in texts if text]
    return f'<div class="samples">{"".join(cards)}</div>' if cards else ""


def _plan(result: Result) -> str:
    heads = ["tensor", "format", "shape", "bits stored", "bits in memory", "predicted loss", "SQNR dB"]
    rows = [
        _row(
            [
                escape(row.name),
                escape(row.format),
                "×".join(map(str, row.shape)),
                f"{row.file_bits:.3f}",
                f"{row.resident_bits:.3f}",
                "" if row.predicted_loss is None else f"{row.predicted_loss:.2e}",
                "" if row.sqnr is None else f"{row.sqnr:.2f}",
            ],
            left=(0, 1),
        )
        for row in result.tensors
    ]
    total = sum(math.prod(row.shape) for row in result.tensors)
    losses = ""
    if result.predicted_loss is not None:
        losses = f", predicted loss {result.predicted_loss:.4f}"
        if result.uniform_loss is not None:
            losses += f" (the best uniform plan: {result.uniform_loss:.4f})"
    title = f"{escape(result.name)}: {len(result.tensors)} tensors, {total:,} weights{losses}"
    table = f'<div class="wide"><table class="plan">{_row(heads, "th", left=(0, 1))}{"".join(rows)}</table></div>'
    return f"<details><summary>{title}</summary>{table}</details>"


def _footer(data: ReportData) -> str:
    parts = []
    if data.command:
        parts.append(f"Made by <code>{escape(data.command)}</code>.")
    if data.versions:
        parts.append(escape(", ".join(f"{name} {version}" for name, version in data.versions.items())) + ".")
    return " ".join(parts)
