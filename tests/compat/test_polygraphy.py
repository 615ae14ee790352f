"""Polygraphy, a client that was not written for Lamina, runs unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lamina.tensorrt as trt
from tests.compat.conftest import ROOT, Program

pytest.importorskip("polygraphy")
pytestmark = pytest.mark.skipif(
    not hasattr(trt, "init_libnvinfer_plugins"), reason="Polygraphy initializes plugins"
)

_PYTHON = """
import numpy as np
import tensorrt as trt
from polygraphy import func
from polygraphy.backend.trt import (
    BytesFromEngine, CreateConfig, CreateNetwork, EngineFromBytes, EngineFromNetwork, Profile,
    TrtRunner,
)

@func.extend(CreateNetwork())
def network(builder, network):
    x = network.add_input("x", trt.float32, (-1, 3))
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    w = network.add_constant((3, 2), matrix).get_output(0)
    none = trt.MatrixOperation.NONE
    y = network.add_matrix_multiply(x, none, w, none).get_output(0)
    y.name = "y"
    network.mark_output(y)

ranges = [((1, 3), (2, 3), (4, 3)), ((5, 3), (6, 3), (8, 3))]
config = CreateConfig(profiles=[Profile().add("x", *r) for r in ranges])
engine = EngineFromNetwork(network, config=config)
with TrtRunner(engine) as runner:
    for profile, rows in ((0, 2), (1, 7)):
        runner.set_profile(profile)
        y = runner.infer({"x": np.ones((rows, 3), np.float32)})["y"]
        assert y.shape == (rows, 2) and (y == [6, 9]).all()
with TrtRunner(EngineFromBytes(BytesFromEngine(engine))) as runner:
    assert (runner.infer({"x": np.ones((4, 3), np.float32)})["y"] == [6, 9]).all()
"""


def test_its_python_interface(program: Program) -> None:
    program(_PYTHON)


_REPLAY = """
from polygraphy.backend.trt import (
    CreateConfig, EngineFromNetwork, NetworkFromOnnxPath, Profile, TacticRecorder, TacticReplayer,
    TacticReplayData,
)

profile = Profile().add("x", (1, 3, 16, 16), (2, 3, 16, 16), (4, 3, 16, 16))

def build(selector):
    config = CreateConfig(profiles=[profile], algorithm_selector=selector)
    return EngineFromNetwork(NetworkFromOnnxPath(MODEL), config=config)()

assert build(TacticRecorder(record=FILE)) is not None
recorded = TacticReplayData.load(FILE)
assert any("conv" in name for name in recorded)
replayed = []

selector = TacticReplayer(replay=FILE)
select = type(selector).select_algorithms

def watched(self, context, choices):
    chosen = select(self, context, choices)
    replayed.append((context.name, len(choices), list(chosen)))
    return chosen

type(selector).select_algorithms = watched
assert build(selector) is not None
assert {name for name, _, _ in replayed} == set(recorded)
assert all(len(chosen) == 1 for _, _, chosen in replayed)
assert any(count > 1 for _, count, _ in replayed)
"""


def test_its_tactics_are_recorded_and_replayed(
    program: Program, model: Path, tmp_path: Path
) -> None:
    places = f"MODEL, FILE = {str(model)!r}, {str(tmp_path / 'tactics.json')!r}"
    program(f"{places}\n{_REPLAY}")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "b": (8,), "m": (8, 4)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
        for n, s in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "m"], ["y"], name="product"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    opset = [helper.make_opsetid("", 17)]
    file = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=opset), file)
    return file


SHAPES = [
    *("--trt-min-shapes", "x:[1,3,16,16]", "--trt-opt-shapes", "x:[2,3,16,16]"),
    *("--trt-max-shapes", "x:[4,3,16,16]"),
]


def polygraphy(installed: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from polygraphy.tools import main; main()", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)]),
            "LAMINA_TENSORRT_DEVICE": "cpu",
        },
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.mark.parametrize("outputs", [[], ["--trt-outputs", "mark", "all"]])
def test_run_compares_with_onnxruntime(installed: Path, model: Path, outputs: list[str]) -> None:
    both = [*outputs, *(["--onnx-outputs", "mark", "all"] if outputs else [])]
    shown = polygraphy(
        installed, "run", str(model), "--trt", "--onnxrt", "--input-shapes", "x:[2,3,16,16]",
        *SHAPES, *both, "--atol", "1e-4", "--rtol", "1e-4",
    )  # fmt: skip
    assert "PASSED" in shown and "Pass Rate: 100.00%" in shown


def test_convert_and_inspect(installed: Path, model: Path) -> None:
    engine = model.with_suffix(".engine")
    polygraphy(installed, "convert", str(model), "-o", str(engine), *SHAPES)
    shown = polygraphy(installed, "inspect", "model", str(engine), "--show", "layers")
    assert "conv + relu" in shown and "max=(4, 3, 16, 16)" in shown
    shown = polygraphy(
        installed, "run", "--model-type=engine", str(engine), "--trt",
        "--input-shapes", "x:[3,3,16,16]",
    )  # fmt: skip
    assert "PASSED" in shown
