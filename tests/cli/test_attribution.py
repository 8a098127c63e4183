"""Measured losses of single tensors, on a tiny random model."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from octavo.compress.attribution import measured_losses

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
    )
    # Weights of its own generator, whatever the global one has drawn before.
    made = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made


def test_loss_of_a_replaced_tensor_grows_with_its_square_and_leaves_the_model_as_it_was(
    model: LlamaForCausalLM,
) -> None:
    generator = torch.Generator().manual_seed(1)
    sequences = torch.randint(64, (2, 12), generator=generator)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weight = model.get_parameter(NAME).detach().clone()
    noise = torch.randn(weight.shape, generator=generator)
    unchanged = measured_losses(model, [(NAME, weight)], sequences)
    small = measured_losses(model, [(NAME, weight + 1e-3 * noise)], sequences)
    large = measured_losses(model, [(NAME, weight + 2e-3 * noise)], sequences)
    assert abs(unchanged[NAME]) < 1e-7
    assert large[NAME] / small[NAME] == pytest.approx(4, rel=0.1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
