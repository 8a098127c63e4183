"""Weights that stay on disk: what is read, what is held, and that every operation gets the right values."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional

from octavo.calibrate.fisher import fisher
from octavo.calibrate.streamed import Shelf, Stored, StreamedWeight, StreamingError
from octavo.checkpoints import Checkpoint, open_checkpoint
from octavo.models.streaming import load_streamed_model, streamed_model


class Disk:
    """Stored weights, and which were read in what order."""

    def __init__(self, generator: torch.Generator) -> None:
        self.values = {
            "matrix": torch.randn(6, 5, generator=generator).bfloat16(),
            "square": torch.randn(6, 6, generator=generator),
            "experts": torch.randn(3, 4, 5, generator=generator),
        }
        self.read: list[tuple[str, int | None]] = []

    def stored(self, name: str) -> Stored:
        def read(slice: int | None) -> torch.Tensor:
            self.read.append((name, slice))
            return self.values[name] if slice is None else self.values[name][slice]

        return Stored(name, tuple(self.values[name].shape), read)

    def weight(self, name: str, limit: int = 0) -> tuple[StreamedWeight, torch.Tensor]:
        """A weight on this disk, and its values."""
        return StreamedWeight(self.stored(name), Shelf(limit)), self.values[name].float()


@pytest.fixture
def disk(generator: torch.Generator) -> Disk:
    return Disk(generator)


OPERATIONS: dict[str, tuple[str, Callable[[Any, torch.Tensor], torch.Tensor]]] = {
    "linear": ("matrix", lambda w, x: functional.linear(x, w)),
    "linear with bias": ("matrix", lambda w, x: functional.linear(x, w, torch.ones(6))),
    "addmm": ("matrix", lambda w, x: torch.addmm(torch.ones(6), x[0], w.T)),
    "transposed twice": ("matrix", lambda w, x: functional.linear(x, w.t().permute(1, 0).transpose(-1, 0).mT)),
    "square, transposed": ("square", lambda w, x: x[..., [0, 1, 2, 3, 4, 4]] @ w.T),
    "square, permuted to itself": ("square", lambda w, x: x[..., [0, 1, 2, 3, 4, 4]] @ w.permute(0, 1)),
    "one expert": ("experts", lambda w, x: functional.linear(x, w[1])),
    "last expert, transposed": ("experts", lambda w, x: x @ w[-1].T),
    "all experts at once": ("experts", lambda w, x: torch.einsum("btc,erc->ebtr", x, w)),
    "scaled before use": ("matrix", lambda w, x: x @ (w * 2 + 1).T),
    "one row": ("matrix", lambda w, x: x * w[2]),
    "in another dtype": ("matrix", lambda w, x: functional.linear(x.double(), w.double())),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_gets_the_values_and_so_does_its_gradient(
    name: str, disk: Disk, generator: torch.Generator
) -> None:
    stored, operation = OPERATIONS[name]
    weight, values = disk.weight(stored)
    assert not disk.read
    inputs = torch.randn(2, 3, 5, generator=generator)
    results, gradients = [], []
    for used in (weight, values):
        x = inputs.clone().requires_grad_()
        found = operation(used, x)
        found.square().sum().backward()
        results.append(found.detach())
        gradients.append(x.grad)
    assert not isinstance(results[0], StreamedWeight)
    assert torch.equal(results[0], results[1])
    assert torch.equal(gradients[0], gradients[1])


def test_a_look_up_converts_only_its_rows(disk: Disk) -> None:
    weight, values = disk.weight("matrix", limit=1000)
    ids = torch.tensor([[1, 5, 1]])
    assert torch.equal(functional.embedding(ids, weight), values[ids])
    assert torch.equal(functional.embedding(ids, weight), values[ids])
    # The whole matrix is not held for it; once it is, for a product, it serves look-ups too.
    assert len(disk.read) == 2
    functional.linear(torch.ones(5), weight)
    assert torch.equal(functional.embedding(ids, weight), values[ids])
    assert len(disk.read) == 3


def test_one_experts_product_reads_one_expert(disk: Disk) -> None:
    weight, values = disk.weight("experts")
    assert torch.equal(functional.linear(torch.ones(5), weight[2]), functional.linear(torch.ones(5), values[2]))
    assert disk.read == [("experts", 2)]


def test_the_shelf_holds_what_was_read_last_and_no_more(disk: Disk) -> None:
    matrix, square = disk.stored("matrix"), disk.stored("square")
    both = Shelf(4 * (30 + 36))
    for stored in (matrix, square, matrix, square):
        both.get(stored, None)
    assert len(disk.read) == 2
    disk.read.clear()
    either = Shelf(4 * 36)
    for stored in (matrix, matrix, square, square, matrix):
        either.get(stored, None)
    assert disk.read == [("matrix", None), ("square", None), ("matrix", None)]
    disk.read.clear()
    small = Shelf(4 * 30)
    for stored in (square, square):
        assert torch.equal(small.get(stored, None), disk.values["square"])
    assert len(disk.read) == 2


def test_a_weight_cannot_be_written_to_nor_change_its_shape_on_disk(disk: Disk) -> None:
    weight, _ = disk.weight("matrix")
    with pytest.raises(StreamingError, match="writes to its weight matrix"):
        weight.mul_(2)
    disk.values["matrix"] = torch.zeros(5, 5)
    with pytest.raises(StreamingError, match=r"matrix has shape \(5, 5\) on disk and \(6, 5\)"):
        functional.linear(torch.ones(5), weight)


def counted(checkpoint: Checkpoint, read: list[str]) -> Checkpoint:
    """The same checkpoint, noting each read."""

    def noting(name: str) -> torch.Tensor:
        read.append(name)
        return checkpoint.read(name)

    return replace(checkpoint, _read=noting)


@pytest.fixture
def experts(tmp_path: Path) -> Path:
    """A random mixture of 8 experts, two for each token, in one layer."""
    config = transformers.Qwen3MoeConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=40,
        moe_intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        num_experts=8,
        num_experts_per_tok=2,
        decoder_sparse_step=1,
        max_position_embeddings=64,
    )
    transformers.Qwen3MoeForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


def test_experts_that_no_token_reaches_are_not_read(experts: Path, generator: torch.Generator) -> None:
    read: list[str] = []
    model = streamed_model(counted(open_checkpoint(experts), read))
    assert all(len(open_checkpoint(experts).entry(name).shape) == 1 for name in read)
    read.clear()
    found = fisher(model, torch.tensor([[7]]), generator=generator)
    touched = {name for name in read if ".experts." in name}
    assert len(touched) == 2 * 3
    assert touched == {name for name, count in found.tokens.items() if ".experts." in name and count}


def test_each_layer_is_run_twice_and_its_weights_are_read_anew(tiny_llama: Path, generator: torch.Generator) -> None:
    read: list[str] = []
    model = streamed_model(counted(open_checkpoint(tiny_llama), read))
    runs = []
    for layer in model.model.layers:
        layer.input_layernorm.register_forward_hook(lambda module, inputs, output: runs.append(module))
    read.clear()
    fisher(model, torch.arange(24).reshape(2, 12), generator=generator)
    first, last = (layer.input_layernorm for layer in model.model.layers)
    # Two sequences, each onward through the layers and back.
    assert runs == 2 * [first, last, last, first]
    assert all("forward" not in vars(layer) for layer in model.model.layers)
    assert read.count("model.layers.0.mlp.up_proj.weight") in (4, 6)


def test_a_checkpoint_without_all_of_the_models_tensors_cannot_be_streamed(tiny_llama: Path) -> None:
    checkpoint = open_checkpoint(tiny_llama)
    name = "model.layers.0.mlp.up_proj.weight"
    without = {key: entry for key, entry in checkpoint.entries.items() if key != name}
    with pytest.raises(StreamingError, match=name):
        streamed_model(replace(checkpoint, entries=without))
    wider = {**checkpoint.entries, name: replace(checkpoint.entry(name), shape=(81, 48))}
    with pytest.raises(StreamingError, match=r"has not the shape \(80, 48\)"):
        streamed_model(replace(checkpoint, entries=wider))


def test_a_streamed_model_comes_with_its_tokenizer(tiny_llama: Path) -> None:
    model, tokenizer = load_streamed_model(tiny_llama)
    assert tokenizer is not None
    reference = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    row = torch.tensor([tokenizer("A sheet of paper").input_ids])
    with torch.no_grad():
        assert torch.equal(model(row).logits, reference(row).logits)


@pytest.mark.parametrize("equal", [True, False])
def test_a_head_that_is_stored_beside_the_embedding_is_tied_to_it_only_if_equal(
    equal: bool, tiny_llama: Path, tmp_path: Path
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    model.config.tie_word_embeddings = False
    head = model.model.embed_tokens.weight.detach().clone()
    model.lm_head.weight = torch.nn.Parameter(head if equal else head.flip(0))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    assert "lm_head.weight" in open_checkpoint(tmp_path).names
    streamed = streamed_model(open_checkpoint(tmp_path))
    assert (streamed.lm_head.weight is streamed.model.embed_tokens.weight) == equal
    row = torch.arange(1, 9)[None]
    with torch.no_grad():
        assert torch.equal(streamed(row).logits, model(row).logits)
