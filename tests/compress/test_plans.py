"""Which tensors are taken, how the plan is kept as text, and that budgets are bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from octavo.base.errors import BudgetError, CheckpointError, FormatError, OctavoError, OutputError
from octavo.base.progress import SILENT
from octavo.checkpoints import open_checkpoint
from octavo.compress import Plan, compress, plan
from octavo.compress.planning import Subject, budget_bits, fixed_width_plan
from octavo.compress.running import CompressionResult
from octavo.compress.selection import select
from octavo.compress.sensitivity import Sensitivity
from octavo.formats import Format, Importance
from octavo.formats.tensor import QuantizedTensor

FEW = ["model.layers.0.mlp.*"]
"""Enough tensors where searching formats for all of them would take long."""

JITTER = 0.2
"""Bits per weight that the tiniest model may leave over: there, a step more or less moves whole tables."""


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 1.4 M weights, so that side information is small."""
    directory = tmp_path_factory.mktemp("million") / "llama"
    config = transformers.LlamaConfig(
        vocab_size=1500,
        hidden_size=256,
        intermediate_size=700,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def importances(source: Path, spread: float = 1.0) -> Sensitivity:
    """Some importance for every matrix."""
    generator = torch.Generator().manual_seed(0)
    checkpoint = open_checkpoint(source)
    found = {}
    for name in select(checkpoint).quantized:
        rows, columns = checkpoint.entry(name).shape
        level = float(torch.exp(torch.randn(1, generator=generator)))
        row, column = (torch.exp(spread * torch.randn(n, generator=generator)) for n in (rows, columns))
        found[name] = Importance(level * row, column)
    return Sensitivity(found)


def stored_bits(out: Path) -> int:
    return sum(8 * path.stat().st_size for path in out.glob("*.safetensors"))


def edited(source: Path, directory: Path, change: Any) -> Path:
    """A copy of a model whose tensors `change` has changed."""
    directory.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (directory / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_matrices_are_quantized_and_the_rest_counts(tiny_llama: Path) -> None:
    checkpoint = open_checkpoint(tiny_llama)
    chosen = select(checkpoint)
    assert "model.embed_tokens.weight" in chosen.quantized
    assert all("norm" in name for name in chosen.kept)
    assert set(chosen.quantized) | set(chosen.kept) == set(checkpoint.names)
    assert chosen.kept_bits == sum(8 * checkpoint.entry(name).nbytes for name in chosen.kept)
    assert chosen.counted == sum(prod(checkpoint.entry(name).shape) for name in checkpoint.names)


def test_patterns_take_tensors_out_of_the_count(tiny_llama: Path) -> None:
    checkpoint = open_checkpoint(tiny_llama)
    chosen = select(checkpoint, include=["*.mlp.*"], exclude=["*.1.*", "*norm*"])
    assert chosen.quantized == tuple(f"model.layers.0.mlp.{k}_proj.weight" for k in ("down", "gate", "up"))
    assert chosen.kept == ()
    assert chosen.counted == 3 * 48 * 80
    with pytest.raises(BudgetError, match="matches no tensor"):
        select(checkpoint, exclude=["*lm_haed*"])
    with pytest.raises(BudgetError, match="no tensor is left"):
        select(checkpoint, exclude=["*"])


def test_excluded_tensors_come_through_and_do_not_count(tiny_llama: Path, tmp_path: Path) -> None:
    result = compress(tiny_llama, tmp_path / "out", bits=6, sensitivity="uniform", exclude=["*embed*", "*norm*"])
    before = load_file(tiny_llama / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert result.plan.counted == sum(p.numel() for n, p in before.items() if "proj" in n)
    assert result.file_bits_per_weight <= 6


@pytest.mark.parametrize("bits", [2.0, 3.0, 4.5])
@pytest.mark.parametrize("sensitivity", ["uniform", "given"])
def test_budget_of_the_file_is_met_from_below(million: Path, tmp_path: Path, bits: float, sensitivity: str) -> None:
    known = importances(million) if sensitivity == "given" else sensitivity
    result = compress(million, tmp_path / "out", bits=bits, sensitivity=known)
    measured = stored_bits(tmp_path / "out") / result.plan.counted
    assert bits - 0.01 <= measured <= bits
    assert result.file_bits_per_weight == pytest.approx(measured)
    assert result.plan.file_bits == pytest.approx(measured, abs=0.01)
    assert result.plan.predicted_loss <= result.plan.uniform_loss


@pytest.mark.parametrize("bits", [4.0, 5.5])
def test_budget_holds_for_the_tiniest_models(tiny_llama: Path, tmp_path: Path, bits: float) -> None:
    result = compress(tiny_llama, tmp_path / "out", bits=bits, sensitivity=importances(tiny_llama))
    assert bits - JITTER <= stored_bits(tmp_path / "out") / result.plan.counted <= bits
    assert result.plan.predicted_loss <= result.plan.uniform_loss * (1 + 1e-9)


def test_more_bits_than_a_grid_can_use_are_no_error(tiny_llama: Path, tmp_path: Path) -> None:
    result = compress(tiny_llama, tmp_path / "out", bits=14, include=FEW, sensitivity="uniform")
    assert result.file_bits_per_weight <= 14
    assert result.plan.predicted_loss < 1e-3 * result.plan.counted


def test_budget_of_bytes_is_one_of_the_whole_file(million: Path, tmp_path: Path) -> None:
    result = compress(million, tmp_path / "out", bytes=500_000, sensitivity="uniform")
    assert 498_000 <= result.file_bytes <= 500_000
    assert result.file_bytes * 8 == stored_bits(tmp_path / "out")


@pytest.mark.parametrize("bits", [2.5, 4.0])
def test_budget_of_memory_is_spent_on_fixed_widths(million: Path, bits: float) -> None:
    checkpoint = open_checkpoint(million)
    chosen = select(checkpoint)
    subject = Subject(checkpoint, chosen, importances(million), 1, SILENT)
    made = fixed_width_plan(subject, budget_bits(bits, None, chosen), "memory")
    assert bits - 0.01 < made.resident_bits <= bits
    assert made.resident_bits == made.file_bits
    assert made.predicted_loss < made.uniform_loss
    assert made.gap is not None
    assert 0 <= made.gap < 0.5
    assert all(entry.format.startswith("columns(") for entry in made.entries)


def test_budget_of_memory_holds_in_memory(tiny_llama: Path, tmp_path: Path) -> None:
    options = {"include": FEW, "exclude": ["*norm*"], "sensitivity": "uniform"}
    result = compress(tiny_llama, tmp_path / "out", bits=4, budget_of="memory", **options)
    parts = load_file(tmp_path / "out" / "model.safetensors")
    held = 8 * sum(part.nbytes for name, part in parts.items() if ".0.mlp." in name)
    assert result.plan.counted == 3 * 48 * 80
    assert held <= 4 * result.plan.counted
    assert held / result.plan.counted == pytest.approx(result.resident_bits_per_weight, abs=0.01)
    assert all("ans" not in entry.format for entry in result.plan.entries)


def test_plan_is_text_and_back(tiny_llama: Path) -> None:
    for made in (
        plan(tiny_llama, bits=5, sensitivity="uniform"),
        plan(tiny_llama, bits=4, budget_of="memory", include=FEW[:1], sensitivity="uniform"),
        plan(tiny_llama, format="int@4 b16", sensitivity="uniform"),
    ):
        assert Plan.from_json(made.to_json()) == made
        json.loads(made.to_json())


def test_edited_plan_is_followed(tiny_llama: Path, tmp_path: Path) -> None:
    made = plan(tiny_llama, format="int@4 b16", sensitivity="uniform")
    kept, changed = made.entries[0], made.entries[1]
    text = replace(made, entries=(replace(changed, format="nf4 b32 absmax:bf16"), *made.entries[2:])).to_json()
    compress(tiny_llama, tmp_path / "out", plan=Plan.from_json(text), sensitivity="uniform")
    tensors = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["tensors"]
    assert tensors[changed.name]["format"] == "nf4 b32 absmax:bf16"
    assert kept.name not in tensors
    original = load_file(tiny_llama / "model.safetensors")[kept.name]
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[kept.name], original)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"entries": [1]}', '{"entries": [{"name": "a"}]}', '{"entries": "all"}']
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="this is no plan"):
        Plan.from_json(text)


def test_plans_of_unknown_formats_or_other_models_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    made = plan(tiny_llama, format="int@4 b16", sensitivity="uniform")
    with pytest.raises(FormatError, match="nf5"):
        Plan.from_json(made.to_json().replace("int@4 b16", "nf5 b16"))
    other = replace(made, entries=(replace(made.entries[0], shape=(3, 4)), *made.entries[1:]))
    with pytest.raises(BudgetError, match="not in this model"):
        compress(tiny_llama, tmp_path / "out", plan=other, sensitivity="uniform")
    assert list(tmp_path.iterdir()) == []


def test_tied_embeddings_are_stored_once(tiny_llama: Path, tmp_path: Path) -> None:
    compress(tiny_llama, tmp_path / "out", bits=6, sensitivity="uniform")
    tensors = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["tensors"]
    assert "model.embed_tokens.weight" in tensors
    assert "lm_head.weight" not in tensors
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert bool(model(torch.arange(8)[None]).logits.isfinite().all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("choice", [{"bits": 5.0}, {"format": "int@4 b16"}])
def test_a_tensor_that_is_not_finite_is_named(
    tiny_llama: Path, tmp_path: Path, value: float, choice: dict[str, Any]
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][3, 4] = value

    source = edited(tiny_llama, tmp_path / "spoiled", spoil)
    with pytest.raises(FormatError, match=name):
        compress(source, tmp_path / "out", sensitivity="uniform", **choice)
    assert not (tmp_path / "out").exists()
    compress(source, tmp_path / "out", sensitivity="uniform", exclude=[name], **choice)


def test_a_tensor_of_zeros_stays_one(tiny_llama: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"

    def empty(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].zero_()

    result = compress(edited(tiny_llama, tmp_path / "zeros", empty), tmp_path / "out", bits=5, sensitivity="uniform")
    assert result.file_bits_per_weight <= 5
    coded = load_file(tmp_path / "out" / "model.safetensors")[f"{name}.coded"]
    entry = next(entry for entry in result.plan.entries if entry.name == name)
    assert not QuantizedTensor(Format.parse(entry.format), entry.shape, {"coded": coded}).dequantize().any()


def test_existing_out_is_left_alone(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        compress(tiny_llama, tmp_path / "out", bits=5, sensitivity="uniform")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "choice",
    [
        {"bits": 0.01},
        {"bits": -1.0},
        {"bits": float("nan")},
        {"bytes": 10},
        {"bits": 0.6},
        {"bits": 0.8, "budget_of": "memory"},
        {},
        {"bits": 3.0, "bytes": 100_000},
        {"bits": 3.0, "format": "nf4 b32"},
    ],
)
def test_impossible_budgets_are_refused(tiny_llama: Path, tmp_path: Path, choice: dict[str, Any]) -> None:
    with pytest.raises(BudgetError) as caught:
        compress(tiny_llama, tmp_path / "out", sensitivity="uniform", **choice)
    assert caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_a_quantized_model_is_no_source(tiny_llama: Path, tmp_path: Path) -> None:
    compress(tiny_llama, tmp_path / "once", format="int@4 b16", sensitivity="uniform")
    with pytest.raises(CheckpointError, match="quantized already"):
        compress(tmp_path / "once", tmp_path / "twice", bits=5, sensitivity="uniform")


def test_an_unknown_sensitivity_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(OctavoError, match="unknown sensitivity"):
        compress(tiny_llama, tmp_path / "out", bits=5, sensitivity="hessian")


def test_jobs_change_no_byte(tiny_llama: Path, tmp_path: Path) -> None:
    made: list[CompressionResult] = [
        compress(tiny_llama, tmp_path / f"out{jobs}", bits=5, jobs=jobs, sensitivity=importances(tiny_llama))
        for jobs in (1, 2)
    ]
    assert made[0].plan == made[1].plan
    files = sorted(path.name for path in made[0].out.iterdir())
    assert files == sorted(path.name for path in made[1].out.iterdir())
    for name in files:
        assert (made[0].out / name).read_bytes() == (made[1].out / name).read_bytes()
