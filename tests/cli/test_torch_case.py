"""Networks that torch defines; a stand-in of torch runs them here."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tests.cli.conftest import FAST, Lamina, tiny_model

from lamina.cli import torch_export

BRIEF = ["--runs", "6", "--threads", "1"]


class Tensor:
    def __init__(self, array: np.ndarray) -> None:
        self.array, self.dtype, self.shape, self.ndim = array, "t", array.shape, array.ndim

    def to(self, _: object) -> Tensor:
        return self

    def is_floating_point(self) -> bool:
        return True

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> np.ndarray:
        return self.array


class Module:
    """The network of the other tests, as if torch defined it."""

    def __init__(self, batch: int) -> None:
        self.model = tiny_model(batch=batch).SerializeToString()
        self.session = onnxruntime.InferenceSession(self.model)
        self.compiled: list[str] = []

    def eval(self) -> Module:
        return self

    def to(self, _: object) -> Module:
        return self

    def __call__(self, x: Tensor) -> Tensor:
        (name,) = [i.name for i in self.session.get_inputs()]
        return Tensor(self.session.run(None, {name: x.numpy()})[0])


def make(batch: int = 2) -> tuple[Module, Tensor]:
    return Module(batch), Tensor(np.ones((batch, 2, 6, 6), np.float32))


def wrong() -> int:
    return 3


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    fake: Any = ModuleType("torch")
    fake.__version__ = "0.0.stand-in"
    fake.float16, fake.bfloat16, fake.no_grad = "half", "bf", contextlib.nullcontext

    def export(module: Module, inputs: object, file: Any, **names: object) -> None:
        assert names["input_names"] == ["x"]
        file.write(module.model)

    fake.onnx = SimpleNamespace(export=export)
    flags = SimpleNamespace(allow_tf32=None)
    mha = SimpleNamespace(get_fastpath_enabled=lambda: True, set_fastpath_enabled=lambda _: None)
    fake.backends = SimpleNamespace(cuda=SimpleNamespace(matmul=flags), cudnn=flags, mha=mha)
    fake.compile = lambda module, mode: module
    monkeypatch.setitem(sys.modules, "torch", fake)
    return fake


def test_torch_is_timed_on_its_own_definition(lamina: Lamina, torch: ModuleType) -> None:
    spec = f"{__name__}:make(3)"
    names = "torch,torch-compile,onnxruntime"
    done = lamina("bench", "--torch", spec, "--compare", names, "--json", "-", *BRIEF, *FAST[:2])
    assert done.code == 0, done.err
    assert done.json["source"] == spec
    assert done.json["inputs"] == {"x": [3, 2, 6, 6]}
    for name in names.split(","):
        peer = done.json["engines"][name]
        assert peer["lamina_is_times_as_fast"] > 0
        assert name == "onnxruntime" or peer["version"] == "0.0.stand-in"
    same = [done.json["engines"][n]["difference"]["relative"] for n in ("torch", "torch-compile")]
    assert all(d < 1e-4 for d in same)


def test_a_definition_may_stand_in_a_file(
    lamina: Lamina, torch: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "nets.py"
    path.write_text(f"from {__name__} import make as net\n")
    done = lamina("bench", "--torch", f"{path}:net", "--json", "-", *BRIEF, *FAST[:2])
    assert done.code == 0, done.err
    assert done.json["inputs"] == {"x": [2, 2, 6, 6]}


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["--torch", "nothing"], "'nothing' names no function"),
        (["--torch", "no_such_module:f"], "cannot import 'no_such_module'"),
        (["--torch", "/nowhere/nets.py:f"], "cannot import '/nowhere/nets.py'"),
        (["--torch", f"{__name__}:none"], "has no function 'none'"),
        (["--torch", f"{__name__}:wrong"], "gives a int"),
        (["--torch", f"{__name__}:make(batch)"], "are no literals"),
        ([], "there is nothing to measure"),
    ],
)
def test_wrong_use(arguments: list[str], fact: str, lamina: Lamina, torch: ModuleType) -> None:
    done = lamina("bench", "--runs", "2", *arguments)
    assert done.code == 2
    assert fact in done.err


def test_two_networks_are_one_too_many(lamina: Lamina, torch: ModuleType, plan: Path) -> None:
    done = lamina("bench", plan, "--torch", f"{__name__}:make")
    assert done.code == 2
    assert "there are two networks" in done.err
    done = lamina("bench", plan, "--compare", "torch")
    assert done.code == 2
    assert "--torch FILE.py:FUNCTION" in done.err


def test_torch_may_be_missing(lamina: Lamina, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    done = lamina("bench", "--torch", f"{__name__}:make")
    assert done.code == 2
    assert "torch is not installed" in done.err


def test_casts_that_torch_writes_wrongly_are_mended() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.BFLOAT16, [2])
    y = helper.make_tensor_value_info("y", TensorProto.BFLOAT16, [2])
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.COMPLEX128)
    file = helper.make_model(helper.make_graph([cast], "g", [x], [y])).SerializeToString()

    def write(module: Any, arguments: Any, place: Any, do_constant_folding: bool, **_: Any) -> None:
        if do_constant_folding:
            raise RuntimeError("ScalarType ComplexDouble is an unexpected tensor scalar type")
        place.write(file)

    mha = SimpleNamespace(get_fastpath_enabled=lambda: True, set_fastpath_enabled=lambda _: None)
    fake = SimpleNamespace(
        backends=SimpleNamespace(mha=mha),
        no_grad=contextlib.nullcontext,
        onnx=SimpleNamespace(export=write),
    )
    model = onnx.load_from_string(torch_export.export(fake, lambda x: x, {"x": 1}))
    assert model.graph.node[0].attribute[0].i == TensorProto.BFLOAT16
