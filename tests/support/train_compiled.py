"""A program of its own, since checked shapes cannot be traced: losses of a run in which quantization starts, as JSON.

With an argument the network is compiled, by that back end of torch.compile, as one graph.
"""

from __future__ import annotations

import functools
import json
import sys

import torch
from tiny_training import config, source

from octavo.layers.fake_quantized import FakeQuantizedLinear
from octavo.models.decoder_config import DecoderConfig
from octavo.models.transformer import Transformer
from octavo.training import next_token_loss, train
from octavo.training.precision import StartQuantizing

FORMATS = {
    "*.mlp.*": "lloyd@2 b32 absmean:bf16",
    "*.q_proj": "mxfp4",
    "*.k_proj": "nvfp4",
    "*": "int@4 b32 absmax:e4m3",
}


def losses(compile: bool) -> list[float]:
    """Two steps without quantization and three with it."""
    sizes = DecoderConfig.plain(256, hidden=32, layers=1, heads=2, context=16)
    model = Transformer(sizes, torch.Generator().manual_seed(0), linear=FakeQuantizedLinear)
    settings = config(steps=5, precision__compile=compile, optimizer__accumulation=1)
    return train(model, next_token_loss, source(), settings, hooks=[StartQuantizing(model, FORMATS, 2)]).losses.tolist()


if __name__ == "__main__":
    plain = losses(compile=False)
    torch.compile = functools.partial(torch.compile, backend=sys.argv[1], fullgraph=True)
    print(json.dumps([plain, losses(compile=True)]))
