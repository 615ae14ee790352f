"""A tiny network (conv, relu, gemm) as an ONNX file, a plan of it, and a way to call commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from lamina.cli.main import app

FAST = ["--optimization-level", "0", "--threads", "1"]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Lamina = Callable[..., Result]


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMINA_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TERM", "dumb")
        yield


@pytest.fixture(scope="session")
def lamina() -> Lamina:
    """Call ``lamina`` with arguments in this process."""

    def call(*arguments: object) -> Result:
        done = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="lamina")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Result(done.exit_code, done.stdout, done.stderr)

    return call


def tiny_model(batch: int | str = "batch", seed: int = 0) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.standard_normal((4, 2, 3, 3)) / 4,
        "b": rng.standard_normal(4),
        "m": rng.standard_normal((144, 5)) / 12,
        "c": rng.standard_normal(5),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["conv_out"], name="conv1", pads=[1] * 4),
            helper.make_node("Relu", ["conv_out"], ["relu_out"], name="relu1"),
            helper.make_node("Flatten", ["relu_out"], ["flat"], name="flatten1"),
            helper.make_node("Gemm", ["flat", "m", "c"], ["y"], name="gemm1"),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 2, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def model(folder: Path) -> Path:
    """The network with a symbolic batch."""
    onnx.save(tiny_model(), folder / "tiny.onnx")
    return folder / "tiny.onnx"


@pytest.fixture(scope="session")
def other_model(folder: Path) -> Path:
    """The same network with other weights."""
    onnx.save(tiny_model(seed=1), folder / "other.onnx")
    return folder / "other.onnx"


@pytest.fixture(scope="session")
def plan(lamina: Lamina, model: Path) -> Path:
    """A plan of the network for batch 2."""
    path = model.with_suffix(".plan")
    done = lamina("build", model, "-o", path, "--shapes", "x:2x2x6x6", *FAST)
    assert done.code == 0, done.err
    return path


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((2, 2, 6, 6)).astype(np.float32)
