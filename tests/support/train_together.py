"""Two processes train the config of the command line: replicated, sharded, and until one of them is killed.

torchrun starts this. The last run is killed as soon as it has a checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from octavo.training import TrainingConfig
from octavo.training.running import run


def kill_after_a_checkpoint(folder: Path) -> None:
    while not list(folder.glob("step-*.safetensors")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


torch.distributed.init_process_group("gloo")
config = TrainingConfig.from_toml(sys.argv[1])
for strategy in ("ddp", "fsdp"):
    run(config.changed({"distributed.strategy": strategy}), strategy)
if torch.distributed.get_rank() == 1:
    threading.Thread(target=kill_after_a_checkpoint, args=(Path("killed"),), daemon=True).start()
try:
    run(config.changed({"distributed.strategy": "ddp", "steps": 40, "checkpointing.every": 1}), "killed")
except Exception as error:
    print(error)
    raise
