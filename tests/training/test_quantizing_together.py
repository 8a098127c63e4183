"""Two processes that start to quantize in the middle of a run find what one does, and the same in each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import quantize_together
import torch
from safetensors.torch import load_file

SCRIPT = Path(quantize_together.__file__)
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


def test_processes_quantize_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicated and sharded, with codebooks weighted by gradients and estimated anew, and as they are exported."""
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [*LAUNCHER, str(SCRIPT), "ddp", "fsdp"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent)},
    )
    assert done.returncode == 0, done.stderr
    alone = quantize_together.train_quantized("none", 0)
    exported = load_file("none-exported/model.safetensors")
    for strategy in ("ddp", "fsdp"):
        one, other = (load_file(f"{strategy}-{rank}.safetensors") for rank in (0, 1))
        assert one.keys() == other.keys() == alone.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        torch.testing.assert_close(one["losses"], alone["losses"], rtol=1e-5, atol=1e-5)
        for name in alone:
            torch.testing.assert_close(one[name], alone[name], rtol=1e-3, atol=1e-4)
        stored = load_file(f"{strategy}-exported/model.safetensors")
        assert stored.keys() == exported.keys()
        for name, part in exported.items():
            if name.endswith(".scales"):
                torch.testing.assert_close(stored[name].float(), part.float(), rtol=1e-2, atol=1e-4)
