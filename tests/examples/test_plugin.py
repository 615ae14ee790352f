"""The program in examples/plugin runs, and its kernel means what its function does."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from tests.architecture.source_files import ROOT
from tests.backends.cuda.simulation import simulated

FOLDER = ROOT / "examples" / "plugin"


def test_the_program_runs(tmp_path: Any) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "scaled_add.py")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_the_kernel_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import scaled_add

    engine = simulated(onnx.parser.parse_model(scaled_add.MODEL))
    assert engine.plan.fallbacks == ()
    a, b = np.random.default_rng(0).standard_normal((2, 700)).astype(np.float32)
    wanted = np.maximum(scaled_add.scaled_add(a, b, factor=3.0), 0)
    np.testing.assert_allclose(engine.run({"a": a, "b": b})["y"], wanted, rtol=1e-6, atol=1e-6)
