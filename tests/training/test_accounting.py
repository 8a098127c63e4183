"""The account of memory is what a run takes, tensor by tensor."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from octavo.models.decoder_config import DecoderConfig
from octavo.models.transformer import Transformer
from octavo.training import TokenWindows, TrainingConfig, next_token_loss, train
from octavo.training.accounting import account


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and (storage := leaf.untyped_storage())._cdata not in self.live:
                self.live[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.live.pop, storage._cdata, None)
                self.peak = max(self.peak, sum(self.live.values()))
        return result


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({}, {"tied": True}),
        ({}, {"tied": False, "shared_heads": 1}),
        ({"precision.dtype": "bfloat16"}, {}),
        ({"precision.recompute": True}, {}),
    ],
)
def test_memory_is_as_accounted(settings: dict[str, Any], sizes: dict[str, Any]) -> None:
    decoder = DecoderConfig.plain(512, 64, 4, 2, context=64, **sizes)
    changes = {"steps": 2, "data.length": 64, "data.batch": 4, "precision.device": "cpu"}
    config = TrainingConfig().changed(changes | settings)
    model = Transformer(decoder, torch.Generator().manual_seed(0))
    source = TokenWindows(np.arange(3000, dtype=np.uint16) % 512, 64, 4, 0)
    found = account(decoder, config)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert (found.weights, found.gradients, found.optimizer) == (weights, weights, 2 * weights)
    with LiveBytes() as live:
        train(model, next_token_loss, source, config)
    assert weights + live.peak == pytest.approx(found.memory, rel=0.1)
