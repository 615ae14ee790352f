"""Loading and running a plan imports nothing of the compiler."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lamina
from lamina import ops
from lamina.ir.text import parse_graph

COMPILER = (
    *("lamina.builder", "lamina.respecialize", "lamina.importers", "lamina.passes"),
    *("lamina.precision", "lamina.codegen", "lamina.tactics", "lamina.schedule", "lamina.ops"),
    *("lamina.ir.rewrite", "lamina.ir.text", "lamina.backends.cpu.compiler"),
    *("lamina.backends.cpu.tactics", "lamina.backends.cpu.kernels", "lamina.cli"),
    *("lamina.backends.cuda.compiler", "lamina.backends.cuda.interpret", "triton"),
    *("onnx", "llvmlite", "typer", "rich", "torch"),
)
GRAPH = """graph(%x: f32[1,8,12,12]) {
  %w = const() type=f32[16,8,3,3] seed=1
  %y = convolution(%x, %w) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
  %a = activation(%y) kind=silu
  %r = reduce(%a) kind=mean axes=(2,3) keepdims=false
  %m = const() type=f32[16,10] seed=2
  %z = matmul(%r, %m)
  return %z
}"""


def loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter; return the modules of the compiler that it loaded."""
    ending = "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code + ending],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    modules = json.loads(done.stdout.splitlines()[-1])
    return {m for m in modules for c in COMPILER if m == c or m.startswith(f"{c}.")}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "net.plan"
    graph = parse_graph(GRAPH, ops.BY_NAME)
    lamina.build(graph, optimization_level=0, timing_cache="").save(path)
    return path


def test_import_lamina_loads_neither_compiler_nor_numpy() -> None:
    code = "import sys, lamina\nassert 'numpy' not in sys.modules"
    assert loaded_by(code) == set()


def test_the_modules_of_the_runtime_load_no_compiler() -> None:
    code = (
        "import importlib, pkgutil, lamina.runtime\n"
        "for m in pkgutil.iter_modules(lamina.runtime.__path__):\n"
        "    importlib.import_module(f'lamina.runtime.{m.name}')\n"
        "import lamina.backends.cpu.driver, lamina.backends.cuda.driver, lamina.plan.format"
    )
    assert loaded_by(code) == set()


def test_a_plan_loads_runs_and_is_inspected_without_the_compiler(plan: Path) -> None:
    code = (
        "import lamina, numpy as np\n"
        f"engine = lamina.load({str(plan)!r})\n"
        "x = np.ones((1, 8, 12, 12), np.float32)\n"
        "assert np.isfinite(engine(x)).all()\n"
        "assert engine.create_context().run({engine.inputs[0].name: x})\n"
        "engine.profile(), engine.inspect()"
    )
    assert loaded_by(code) == set()


def test_the_plan_of_the_previous_test_is_right(plan: Path) -> None:
    from lamina.ir.interpret import interpret

    x = np.random.default_rng(0).standard_normal((1, 8, 12, 12)).astype(np.float32)
    (wanted,) = interpret(parse_graph(GRAPH, ops.BY_NAME), [x])
    np.testing.assert_allclose(lamina.load(plan)(x), wanted, rtol=1e-4, atol=1e-4)
