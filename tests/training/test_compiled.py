"""`precision.compile` in a run in which quantization starts: one graph before and one after, and the same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import train_compiled


def test_quantization_starts_in_a_compiled_network() -> None:
    """Traced as a whole, forward and backward; kernels are not made of the graphs, which would take half a minute."""
    done = subprocess.run(
        [sys.executable, train_compiled.__file__, "aot_eager"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(train_compiled.__file__).parent)},
    )
    assert done.returncode == 0, done.stderr
    plain, compiled = json.loads(done.stdout)
    assert compiled == pytest.approx(plain, rel=1e-6)
