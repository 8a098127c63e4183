"""Two processes train the config of the command line twice, replicated and sharded; torchrun starts this."""

from __future__ import annotations

import sys

import torch

from octavo.training import TrainingConfig
from octavo.training.running import run

torch.distributed.init_process_group("gloo")
for strategy in ("ddp", "fsdp"):
    run(TrainingConfig.from_toml(sys.argv[1]).changed({"distributed.strategy": strategy}), strategy)
torch.distributed.destroy_process_group()
