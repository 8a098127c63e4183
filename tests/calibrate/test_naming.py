"""Factors under the checkpoint's names, without a tensor of the size of a layer's experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from octavo.calibrate import naming
from octavo.calibrate.naming import checkpoint_factors
from octavo.calibrate.sums import Factors

SIDES = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 26, "decoder_sparse_step": 1}


def experts(kind: str) -> Any:
    if kind == "mixtral":
        return transformers.MixtralForCausalLM(transformers.MixtralConfig(**SIDES, num_local_experts=4))
    return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**SIDES, **EXPERTS))


def factors_of(model: Any, generator: torch.Generator) -> dict[str, Factors]:
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim in (2, 3):
            count = len(parameter) if parameter.ndim == 3 else 1
            rows, columns = (torch.rand(count, side, generator=generator).double() for side in parameter.shape[-2:])
            found[name] = Factors(rows, columns, torch.arange(count))
    return found


@pytest.mark.parametrize("kind", ["mixtral", "qwen3-moe"])
def test_factors_are_taken_apart_as_their_weights_are(
    kind: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = experts(kind)
    factors = factors_of(model, generator)
    with monkeypatch.context() as patch:
        patch.setattr(naming, "_full", None)
        thin = checkpoint_factors(model, factors)
    monkeypatch.setattr(naming, "_thin", lambda *arguments: None)
    full = checkpoint_factors(model, factors)
    assert thin.keys() == full.keys()
    assert sum(".experts." in name for name in thin) == 4 * 3
    for name, found in full.items():
        assert torch.equal(thin[name].row, found.row)
        assert torch.equal(thin[name].column, found.column)
        assert torch.equal(thin[name].tokens, found.tokens)
    fused = factors[next(name for name in factors if name.endswith("gate_up_proj"))]
    third = sorted((name for name in thin if ".experts.2." in name), key=lambda name: thin[name].row.shape)
    assert any(torch.equal(thin[name].row[0], fused.row[2, : thin[name].row.shape[1]]) for name in third)


def test_what_a_thin_reversal_gets_wrong_is_done_in_full(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = experts("qwen3-moe")
    factors = factors_of(model, generator)
    expected = checkpoint_factors(model, factors)
    # One copy does not divide into the two halves of a fused projection.
    monkeypatch.setattr(naming, "THIN", 1)
    found = checkpoint_factors(model, factors)
    assert found.keys() == expected.keys()
    for name, factor in expected.items():
        assert torch.equal(found[name].row, factor.row)
        assert torch.equal(found[name].column, factor.column)
