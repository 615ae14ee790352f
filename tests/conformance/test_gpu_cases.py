"""The cases of the onnx package, built for a GPU.

On the simulated device a sample always, all of them as slow tests; on a GPU with ``-m gpu``, where
``--gpu-results FILE`` writes what was found.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamina.backends.cuda.bindings import open_device
from lamina.errors import DeviceError
from tests.backends.cuda.simulation import simulated
from tests.conformance.execution import profiles, run_cases
from tests.conformance.gpu_run import run_on_gpu
from tests.conformance.gpu_worker import all_cases
from tests.conformance.known_failures import CUDA_FAILURES

SHARDS = 16
"""One shard of the cases is the sample."""


def interpreted(model):
    engine = simulated(model, shapes=profiles(model))
    several = len(engine.outputs) > 1
    return lambda inputs: list(engine(*inputs)) if several else [engine(*inputs)]


def check(shard):
    cases = all_cases()[shard::SHARDS]
    outcome = run_cases(cases, interpreted, CUDA_FAILURES)
    assert not outcome.wrong, str(outcome)
    assert outcome.passed > 0.9 * len(cases)


def test_sample():
    check(0)


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(1, SHARDS))
def test_all(shard):
    check(shard)


@pytest.mark.gpu
@pytest.mark.timeout(1800)
def test_on_a_gpu(request):
    try:
        device = open_device(0)
    except DeviceError as e:
        pytest.skip(str(e))
    summary = run_on_gpu(device, CUDA_FAILURES)
    if path := request.config.getoption("--gpu-results"):
        Path(path).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    assert not summary["wrong"], json.dumps(summary["wrong"], indent=1)
