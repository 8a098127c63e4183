"""A process that trains with quantized weights, among others or alone; torchrun starts several of them.

Writes, for each strategy named, what this process has in the end: `STRATEGY-RANK.safetensors`.
"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file
from tiny_training import config, source
from torch import nn
from torch.optim import Optimizer

from octavo.formats.frozen import FrozenCodebook
from octavo.layers.fake_quantized import FakeQuantizedLinear
from octavo.models.decoder_config import DecoderConfig
from octavo.models.transformer import Transformer
from octavo.training import next_token_loss, train
from octavo.training.precision import FlipRate, StartQuantizing, export_quantized
from octavo.training.state import whole

FORMATS = {
    "*.0.mlp.*": "lloyd@1 b64 absmean:bf16",
    "*.1.mlp.*": "lloyd@2 b32 absmean:bf16",
    "*.[kvo]_proj": "int@4 b32 absmax:bf16",
}
OTHERS = {"*.q_proj": "nvfp4"}


def train_quantized(strategy: str, rank: int) -> dict[str, torch.Tensor]:
    """Losses, weights, the first codebooks, and the shares of codes that changed."""
    sizes = DecoderConfig.plain(256, hidden=32, layers=2, heads=2, context=16)
    model = Transformer(sizes, torch.Generator().manual_seed(0), linear=FakeQuantizedLinear)
    settings = config(steps=8, distributed__strategy=strategy)
    first: dict[str, torch.Tensor] = {}

    def remember(step: int, model: nn.Module, optimizer: Optimizer) -> None:
        if step == 3:
            for name, layer in model.named_modules():
                if isinstance(layer, FakeQuantizedLinear) and isinstance(layer.frozen, FrozenCodebook):
                    first[f"codebook/{name}"] = layer.frozen.codebook

    flips = FlipRate(every=4)
    start = StartQuantizing(model, FORMATS, 3, every=3, by_gradient=True)
    hooks = [start, StartQuantizing(model, OTHERS, 3), remember, flips]
    result = train(model, next_token_loss, source(), settings, directory=strategy, hooks=hooks)
    export_quantized(model, None, f"{strategy}-exported", dtype=torch.float32)
    found = {f"weight/{name}": whole(parameter).clone() for name, parameter in model.named_parameters()}
    return found | first | {"losses": result.losses, "flips": torch.tensor([rate for _, rate in flips.rates])}


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    number = torch.distributed.get_rank()
    for strategy in sys.argv[1:]:
        save_file(train_quantized(strategy, number), f"{strategy}-{number}.safetensors")
    torch.distributed.destroy_process_group()
