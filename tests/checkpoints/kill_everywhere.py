"""A program that runs the writer in children which kill themselves at the first, second, ... step of the file system.

Prints how many steps there are; fails if after any kill OUT is there but not whole, or the next run differs.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path

import torch

from octavo.checkpoints import CheckpointWriter

STEPS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")


def run(out: Path) -> None:
    with CheckpointWriter(out, "key", max_shard_bytes=50) as writer:
        for i, name in enumerate("abc"):
            if not writer.done(name):
                writer.write(name, {"codes": torch.full((40,), i, dtype=torch.uint8), "scales": torch.ones(2)})
        writer.finish({"model_type": "llama"}, files={"plan.json": "{}"})


def digest(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.iterdir())}


def run_and_die(out: Path, steps: int) -> bool:
    """Run in a child that dies at step number `steps`; whether it did."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = steps

    def dying(step):
        def wrapped(*args, **kwargs):
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return step(*args, **kwargs)

        return wrapped

    for name in STEPS:
        setattr(os, name, dying(getattr(os, name)))
    code = 1
    try:
        run(out)
        code = 0
    finally:
        os._exit(code)


def main(folder: Path) -> None:
    run(folder / "whole")
    expected = digest(folder / "whole")
    steps = 0
    while True:
        out = folder / f"out{steps}"
        died = run_and_die(out, steps)
        if out.exists():
            assert digest(out) == expected, f"step {steps}: half an output"
        # The only refusal allowed is that of a whole output whose last leftover has gone.
        if not out.exists() or (out.with_name(f".{out.name}.partial") / "key").exists():
            run(out)
        assert digest(out) == expected, f"step {steps}: other bytes"
        if not died:
            break
        steps += 1
    print(steps)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
