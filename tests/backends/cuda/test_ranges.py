"""NVTX ranges around runs and steps, through a stand-in of the package."""

from __future__ import annotations

import contextlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from tests.backends.cuda.sections import chain, chained, context

from lamina.backends.cuda.resources import RunOptions
from lamina.config import cuda_run_options
from lamina.errors import DeviceError

X = np.arange(8, dtype=np.float32)


def test_runs_and_their_steps_have_names(monkeypatch):
    begun, depth = [], 0

    @contextlib.contextmanager
    def annotate(message, domain):
        nonlocal depth
        begun.append((depth, message, domain))
        depth += 1
        yield
        depth -= 1

    monkeypatch.setitem(sys.modules, "nvtx", SimpleNamespace(annotate=annotate))
    runs = context(chain(), options=RunOptions(ranges=True))
    for _ in range(3):  # every run goes step by step
        begun.clear()
        np.testing.assert_array_equal(runs.run({"x": X})["y"], chained(X))
        assert begun[0] == (0, "run", "lamina")
        steps = [f"double_plus{i} test-double_plus" for i in range(3)]
        assert begun[1:] == [(1, name, "lamina") for name in steps]


def test_ranges_need_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with pytest.raises(DeviceError, match=r"need the package nvtx[\s\S]*pip install nvtx"):
        context(chain(), options=RunOptions(ranges=True))


def test_they_are_switched_on_by_the_environment(monkeypatch):
    monkeypatch.setenv("LAMINA_NVTX", "1")
    assert cuda_run_options() == {"ranges": True}
