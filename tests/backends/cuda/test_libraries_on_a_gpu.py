"""cuBLASLt and cuDNN themselves, on a GPU: results, other arrays, plans that are loaded again."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cuda.sections import on_device
from tests.backends.cuda.test_plan_store import NAMES, PROBLEM
from tests.samples.sample import normal

import lamina
from lamina import ops
from lamina.backends.cuda import bindings
from lamina.backends.cuda import compiler as compiler_of_cuda
from lamina.backends.cuda.library.cudnn import Cudnn
from lamina.backends.cuda.library.cudnn_planner import load_cudnn
from lamina.backends.cuda.tactics.cublaslt import CublasLtMatmul
from lamina.backends.cuda.tactics.cudnn import CudnnAttention, CudnnConvolution
from lamina.backends.cuda.tactics.generated import Generated
from lamina.codegen.workers import Workers
from lamina.errors import DeviceError
from lamina.ir.interpret import interpret
from lamina.ir.text import parse_graph
from lamina.plan.plan import StepKind

pytestmark = pytest.mark.gpu

MATMUL = """graph(%x: {t}[48,64]) {{
  %w = const() type={t}[64,80] seed=1
  %c = const() type={t}[80] seed=2
  %v = const() type={t}[80,32] seed=3
  %h = matmul(%x, %w, %c) activation={{gelu_tanh,0.0,0.0}}
  %g = matmul(%h, %v)
  %y = matmul(%h, %v, %c1, %g) activation={{relu,0.0,0.0}}
  return %y
}}""".replace("%c1", "%d").replace("  %h =", "  %d = const() type={t}[32] seed=4\n  %h =")
CONVOLUTION = """graph(%x: {t}[4,32,14,14]) {{
  %w = const() type={t}[64,32,3,3] seed=1
  %c = const() type={t}[64] seed=2
  %v = const() type={t}[64,64,3,3] seed=3
  %h = convolution(%x, %w, %c) strides=(2,2) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1) activation={{relu,0.0,0.0}}
  %y = convolution(%h, %v, %c, %h) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1) activation={{relu,0.0,0.0}}
  return %y
}}"""  # noqa: E501
ATTENTION = """graph(%x: {t}[2,4,128,64]) {{
  %y = attention(%x, %x, %x) scale=0.125 causal=true
  return %y
}}"""
TOLERANCE = {"f16": 2e-3, "bf16": 2e-2, "f32": 1e-5}
"""Relative to the norm of the result."""


@pytest.fixture
def device():
    try:
        return bindings.open_device(0)
    except DeviceError as e:
        pytest.skip(str(e))


def agree(got, wanted, dtype):
    wanted = wanted.astype(np.float64)
    error = np.linalg.norm(np.asarray(got).astype(np.float64) - wanted) / np.linalg.norm(wanted)
    assert error < TOLERANCE[dtype], error


@pytest.mark.parametrize(
    "text, tactic, dtype",
    [
        *((MATMUL, CublasLtMatmul(), t) for t in TOLERANCE),
        *((CONVOLUTION, CudnnConvolution(), t) for t in ("f16", "bf16")),
        *((ATTENTION, CudnnAttention(), t) for t in ("f16", "bf16")),
    ],
)
def test_a_library_alone(device, monkeypatch, text, tactic, dtype):
    library = tactic.name.split("-")[0]
    try:
        device.library(library)
    except DeviceError as e:
        pytest.skip(str(e))
    monkeypatch.setattr(compiler_of_cuda, "TACTICS", (tactic, Generated()))
    graph = parse_graph(text.format(t=dtype), ops.BY_NAME)
    type_ = graph.inputs[0].tensor
    built = lamina.build(graph, target="cuda", optimization_level=1, timing_cache="")
    kinds = [s.kind for s in built.plan.sections[0].program.steps]
    assert StepKind.PRIMITIVE in kinds
    for engine in (built, lamina.Engine(built.plan, device="cuda")):
        kept = []
        for seed in range(7):  # more sets of arrays than there are graphs
            x = normal(*type_.static_shape, seed=seed, dtype=type_.dtype.numpy)
            (wanted,) = interpret(parse_graph(text.format(t=dtype), ops.BY_NAME), [x])
            kept.append(on_device(device, x))
            for _ in range(2):
                (y,) = engine.run({"x": kept[-1]}).values()
                agree(y.numpy(), wanted, dtype)
            kept.append(y)


def test_plans_of_other_processes_are_loaded(device):
    try:
        cudnn = Cudnn(device, load_cudnn())
    except DeviceError as e:
        pytest.skip(str(e))
    problem = PROBLEM | {"dtype": "f16", "activation": "silu", "alpha": 1.0}
    engines = cudnn.engines(problem, NAMES)[:3]
    with Workers("lamina.backends.cuda.plan_worker", 2) as workers:
        asked = [cudnn.begin(problem, NAMES, e, workers.submit) for e in engines]
        answers = [answer.result() for answer in asked]
    for engine, (said, plan) in zip(engines, answers, strict=True):
        assert cudnn.plan(problem, NAMES, engine) == (plan, said["workspace"])  # taken over
        assert cudnn.plan(problem, NAMES, engine)[1] == said["workspace"]  # made here
        operation = cudnn.operation({**problem, "version": cudnn.version}, NAMES, plan)
        assert operation.workspace_bytes == said["workspace"]
