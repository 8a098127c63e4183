"""Layers are found, and their outputs' noise is measured against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from octavo.base.errors import ModelError
from octavo.measure.layerwise import LayerNoise, decoder_layers, recorded


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(3, 3) for _ in range(9))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return 2 * x, None


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Identity()])
        self.layers = nn.ModuleList(Layer() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)[0]
        return x


def test_the_longest_outermost_list_holds_the_layers() -> None:
    assert list(decoder_layers(Model())) == ["layers.0", "layers.1", "layers.2"]
    with pytest.raises(ModelError, match="no list of layers"):
        decoder_layers(nn.Linear(2, 2))


def test_outputs_are_recorded_within_only() -> None:
    model = Model()
    with recorded(decoder_layers(model)) as outputs:
        model(torch.ones(2, 3))
    assert torch.equal(outputs["layers.2"], 8 * torch.ones(2, 3))
    model(torch.zeros(2, 3))
    assert torch.equal(outputs["layers.2"], 8 * torch.ones(2, 3))


def test_noise_is_in_decibels_and_averaged_over_sequences() -> None:
    noise = LayerNoise()
    signal = torch.full((4, 4), 10.0)
    noise.add({"a": signal, "b": signal}, {"a": signal + 1, "b": signal})
    noise.add({"a": signal, "b": signal}, {"a": signal + 0.1, "b": signal})
    first, second = noise.result()
    assert first.name == "a"
    assert first.sqnr_db.mean == pytest.approx(30, abs=1e-3)
    assert first.sqnr_db.error == pytest.approx(10, abs=1e-3)
    assert second.sqnr_db.mean == math.inf
