"""How many parameters at how many bits: the published optima, the published models, and questions without sense."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from octavo.base.errors import LawError, OctavoError, OutputError
from octavo.base.units import format_count, parse_count
from octavo.laws.memory_plan import Choice, Layout, plan_memory
from octavo.laws.memory_plot import save_plot
from octavo.laws.precision import PUBLISHED, PrecisionLaw

GB = 10**9


def best(memory: int, name: str, **options: object) -> list[Choice]:
    return plan_memory(memory, 1e12, PUBLISHED[name], **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("width", "layers", "bits", "body", "embeddings", "gigabytes"),
    [
        (3072, 24, 16.0, 3.10, 0.79, 7.77),
        (4096, 48, 4.25, 10.47, 1.05, 7.66),
        (6144, 60, 1.25, 29.07, 1.58, 7.69),
    ],
)
def test_published_models_have_their_published_sizes(
    width: int, layers: int, bits: float, body: float, embeddings: float, gigabytes: float
) -> None:
    layout = Layout()
    counted = layers * layout.layer(width)
    assert counted / 1e9 == pytest.approx(body, abs=0.006)
    assert layout.embeddings(width) / 1e9 == pytest.approx(embeddings, abs=0.006)
    assert (bits * counted + 16 * layout.embeddings(width)) / 8e9 == pytest.approx(gigabytes, abs=0.006)


def test_published_optima_come_out() -> None:
    one, two = best(8 * GB, "kmeans")[:2]
    assert (one.bits, two.bits) == (1, 2)
    assert two.effective / one.effective > 0.99
    assert best(8 * GB, "uniform")[0].bits == 2
    assert best(2 * GB, "kmeans")[0].bits == 4
    assert best(2 * GB, "uniform")[0].bits == 4
    for memory in (16 * GB, 60 * GB):
        for name in PUBLISHED:
            assert best(memory, name)[0].bits == 1


def test_published_effective_size_per_bit_at_60_gb() -> None:
    # Read off a plot as 0.231 and 0.210; the rule for width, which is not published, takes 3 % off.
    assert best(60 * GB, "kmeans")[0].effective / (8 * 60 * GB) == pytest.approx(0.231, rel=0.035)
    assert best(60 * GB, "uniform")[0].effective / (8 * 60 * GB) == pytest.approx(0.210, rel=0.035)


def test_without_embeddings_fewer_bits_always_win() -> None:
    for memory in (GB, 100 * GB):
        choices = best(memory, "kmeans", bits=(0.5, 1, 2, 4, 8, 16), layout=Layout(vocabulary=1))
        assert [choice.bits for choice in choices] == [0.5, 1, 2, 4, 8, 16]


@pytest.mark.parametrize("scale_bits", [0.0, 0.25])
def test_models_fit_their_memory(scale_bits: float) -> None:
    layout = Layout()
    for memory in (GB, 8 * GB, 60 * GB):
        for choice in best(memory, "kmeans", scale_bits=scale_bits):
            stored = choice.bits + (scale_bits if choice.bits < 16 else 0)
            assert 0.9 * memory < choice.bytes <= memory
            assert choice.width % 128 == 0
            assert choice.body == choice.layers * layout.layer(choice.width)
            assert choice.bytes == math.ceil((stored * choice.body + 16 * layout.embeddings(choice.width)) / 8)
            # A whole model's width is a multiple of 128, and its feed-forward width one of 1024.
            assert choice.body == pytest.approx(choice.parameters, rel=0.2)
            assert choice.operations == pytest.approx(6 * choice.parameters * 1e12)


def test_loss_is_told_where_all_constants_are_known() -> None:
    assert all(choice.loss is None for choice in best(8 * GB, "kmeans"))
    law = PrecisionLaw(0.63, 0.40, 3.32, a=500.0, b=1000.0, e=1.7)
    choices = plan_memory(8 * GB, 1e12, law)
    losses = [choice.loss for choice in choices if choice.loss is not None]
    assert losses == sorted(losses)
    assert losses[0] == pytest.approx(law.loss(choices[0].parameters, 1e12, 1.0))
    assert [choice.bits for choice in choices] == [choice.bits for choice in best(8 * GB, "kmeans")]


@pytest.mark.parametrize(
    ("memory", "tokens", "options", "words"),
    [
        (50 * 10**6, 1e12, {}, "65.7 MB for embeddings"),
        (8 * GB, 0, {}, "0 tokens"),
        (8 * GB, math.nan, {}, "tokens"),
        (8 * GB, 1e12, {"bits": (0,)}, "between 0 and 64"),
        (8 * GB, 1e12, {"bits": ()}, "between 0 and 64"),
        (8 * GB, 1e12, {"scale_bits": -1.0}, "must not be negative"),
        (8 * GB, 1e12, {"layout": Layout(aspect=0.0)}, "must not be negative"),
    ],
)
def test_questions_without_sense_are_refused(memory: int, tokens: float, options: dict, words: str) -> None:
    with pytest.raises(LawError, match=words):
        plan_memory(memory, tokens, PUBLISHED["kmeans"], **options)


def test_what_does_not_fit_is_left_out() -> None:
    choices = best(80 * 10**6, "kmeans", bits=(1, 16), layout=Layout(aspect=4.0))
    assert [choice.bits for choice in choices] == [1]


def test_plot_is_a_picture_for_known_and_unknown_losses(tmp_path: Path) -> None:
    for index, law in enumerate([PUBLISHED["kmeans"], dataclasses.replace(PUBLISHED["kmeans"], a=9.0, b=9.0, e=1.0)]):
        path = save_plot(tmp_path / f"{index}.png", 200 * 10**6, 1e12, law)
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputError):
        save_plot(tmp_path / "none" / "p.png", 8 * GB, 1e12, PUBLISHED["kmeans"])


@pytest.mark.parametrize(
    ("text", "count"), [("1T", 10**12), ("150B", 150 * 10**9), (" 2.5 m", 2_500_000), ("25e5", 2_500_000), (".5k", 500)]
)
def test_counts_are_read_as_people_write_them(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "T", "1X", "-1", "1TB", "1 2"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(OctavoError, match="is not a count"):
        parse_count(text)


def test_counts_are_written_short() -> None:
    assert [format_count(count) for count in (7, 1500, 9.097e9, 1e12)] == ["7", "1.5 k", "9.1 B", "1 T"]
