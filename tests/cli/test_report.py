"""The report: self-contained, escaped, and its data come back from the page."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from octavo.base.errors import OctavoError
from octavo.compress.report import Original, Point, ReportData, Result, TensorRow, read_report, render, write_report
from octavo.compress.report.axes import Scale, number, scale
from octavo.compress.report.plots import depth_and_kind

KINDS = {"self_attn.q_proj": (8, 8), "mlp.up_proj": (16, 8)}


def tensors(bits: float) -> tuple[TensorRow, ...]:
    names = [(layer, kind, shape) for layer in range(3) for kind, shape in KINDS.items()]
    return tuple(
        TensorRow(
            name=f"model.layers.{layer}.{kind}.weight",
            shape=shape,
            format=f"int@{bits:.0f} b32 absmax:bf16",
            file_bits=bits + 0.1 * layer,
            resident_bits=bits + 0.5,
            predicted_loss=1e-3 / (1 + layer),
            measured_loss=1.1e-3 / (1 + layer),
            relative_error=4.0**-bits,
        )
        for layer, kind, shape in names
    )


def sample_result(name: str = "3 bits", bits: float = 3.0, divergence: float = 0.2) -> Result:
    return Result(
        name=name,
        format="grid",
        file_bits=bits,
        resident_bits=bits + 1,
        file_bytes=61_300_000,
        divergence=divergence,
        divergence_error=divergence / 20,
        agreement=0.85,
        agreement_error=0.01,
        perplexity=22.5,
        seconds=40.0,
        predicted_loss=divergence * 0.9,
        uniform_loss=divergence * 2,
        coverage="Every tensor was reached by 16 sequences.",
        sample="Paris.",
        tensors=tensors(bits),
    )


def sample_data(**changes: object) -> ReportData:
    data = ReportData(
        title="A model, folded",
        subject="A model.",
        text="8 sequences",
        prompt="The capital",
        original=Original("original", 16.0, 269_000_000, 19.27, "Paris."),
        results=(sample_result("4 bits", 4.0, 0.03), sample_result()),
        points=(Point("nf4", "nf4 b64", 4.25, 0.29, 0.01),),
        command="octavo demo",
        versions={"torch": "2.13.0"},
    )
    return replace(data, **changes)  # type: ignore[arg-type]


class Outside(HTMLParser):
    """Collects what a page would run or fetch, and checks that its elements are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.fetched += [str(values[key]) for key in ("src", "href", "data", "poster") if key in values]
        if tag == "script":
            self.scripts.append(values.get("type") or "text/javascript")
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def parse(page: str) -> Outside:
    outside = Outside()
    outside.feed(page)
    outside.close()
    assert outside.open == []
    return outside


def test_data_round_trip_through_json() -> None:
    data = sample_data()
    assert ReportData.from_json(data.to_json()) == data


def test_page_needs_nothing_beside_itself() -> None:
    page = render(sample_data())
    outside = parse(page)
    assert outside.fetched == []
    assert outside.scripts == ["application/json"]
    assert not re.search(r"url\(|@import|http", page)


def test_page_shows_every_figure() -> None:
    page = render(sample_data())
    # Pareto plot, two maps of bits, errors, predictions.
    assert page.count("<svg") == 5
    for words in ("0.2000 ± 0.0100", "61.3 MB", "85.0 ± 1.0 %", "22.50", "Every tensor was reached", "torch 2.13.0"):
        assert words in page


def test_written_report_gives_its_data_back(tmp_path: Path) -> None:
    data = sample_data()
    path = write_report(tmp_path / "deep" / "report.html", data)
    assert read_report(path) == data
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_text_from_outside_is_escaped() -> None:
    evil = "</script><script>alert(1)</script><img src=x>\"'"
    row = replace(tensors(3.0)[0], name=f"layers.0.{evil}.weight", format=evil)
    result = replace(sample_result(), name=evil, format=evil, sample=evil, coverage=evil, tensors=(row,))
    data = sample_data(title=evil, subject=evil, text=evil, prompt=evil, command=evil, results=(result,))
    page = render(replace(data, points=(Point(evil, evil, 2.0, 0.1),), versions={evil: evil}))
    outside = parse(page)
    assert outside.fetched == []
    assert outside.scripts == ["application/json"]


def test_report_of_nothing_but_a_table() -> None:
    bare = replace(sample_result(), tensors=(), divergence=0.0, divergence_error=0.0, sample="", coverage=None)
    page = render(sample_data(results=(bare,), points=(), original=Original("original", 16.0, 1, 19.0)))
    parse(page)
    assert "<svg" not in page


def test_one_tensor_of_one_depth_draws() -> None:
    result = replace(sample_result(), tensors=tensors(3.0)[:1])
    parse(render(sample_data(results=(result,), points=())))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 7}', '{"version": 1, "title": "x"}'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(OctavoError, match="not the data of a report"):
        ReportData.from_json(text)


def test_other_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<html></html>")
    with pytest.raises(OctavoError, match="not the data of a report"):
        read_report(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.3.mlp.up_proj.weight", (3, "mlp.up_proj")),
        ("transformer.h.11.attn.c_attn.weight", (11, "attn.c_attn")),
        ("model.layers.2.mlp.experts.7.down_proj.weight", (2, "mlp.experts.down_proj")),
        ("model.embed_tokens.weight", (None, "model.embed_tokens")),
    ],
)
def test_layer_and_kind_of_a_name(name: str, expected: tuple[int | None, str]) -> None:
    assert depth_and_kind(name) == expected


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0.03, 1.2), (2.0, 4.0), (1e-7, 1e-2), (3.0, 3.0), (1.9, 2.1)])
def test_scale_holds_its_values_and_has_ticks(low: float, high: float, log: bool) -> None:
    axis = scale([low, high], 50, 450, log=log)
    assert 50 <= axis(low) <= axis(high) <= 450
    assert 1 <= len(axis.ticks()) <= 8
    assert all(50 - 1e-6 <= axis(tick) <= 450 + 1e-6 for tick in axis.ticks())


def test_scale_runs_downwards_too() -> None:
    axis = Scale(0, 10, 300, 0)
    assert axis(0) == 300
    assert axis(10) == 0


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.05, "0.05"), (2.5, "2.5"), (1e-4, "10⁻⁴"), (2e-6, "2·10⁻⁶"), (0.1 + 0.2, "0.3")]
)
def test_tick_labels(value: float, text: str) -> None:
    assert number(value) == text
