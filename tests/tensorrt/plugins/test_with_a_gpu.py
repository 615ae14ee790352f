"""Plugins on a GPU: kernels in the engine, and Python that gets addresses and a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lamina
import lamina.tensorrt as trt
import lamina.tensorrt.plugin as trtp
from lamina.plan.plan import StepKind
from lamina.tensorrt import platform
from tests.plugins import kernels
from tests.plugins.test_triton_kernels import model, values
from tests.tensorrt.plugins.test_plugins_on_a_gpu import roll_net
from tests.tensorrt.plugins.test_tuning import Plus
from tests.tensorrt.running import Net, random

pytestmark = pytest.mark.gpu
X = random(4, 3)
# NumPy rounds the product, which is up to 32, before the sum, and the result is twice the sum; a
# GPU multiplies and adds with one rounding.  Half an ulp of 32 in f16, twice, is 0.016.
TOLERANCE = {"float32": {"rtol": 1e-6, "atol": 4e-6}, "float16": {"rtol": 2e-3, "atol": 0.02}}


@pytest.fixture(scope="module", autouse=True)
def cuda() -> Iterator[Any]:
    if platform.device() != "cuda":
        pytest.skip("there is no GPU")
    from cuda.bindings import runtime

    yield runtime


def built(net: Net) -> lamina.Engine:
    data = net.builder.build_serialized_network(net.network, net.config)
    assert data is not None, net.logger.errors
    return lamina.load(bytes(data), device="cuda")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_kernels_of_an_operator_from_onnx(dtype: str) -> None:
    proto = model("y = kernels.scaled_add <factor = 3.0> (a, b)", dtype)
    engine = lamina.build(proto, target="cuda", timing_cache="")
    (step,) = engine.section.program.steps
    assert step.kind is StepKind.KERNEL and len(step.tried) == 2
    for size in (1000, 7):
        a, b = values(dtype, size)
        got = engine.run({"a": a, "b": b})["y"]
        wanted = kernels.scaled_add(a, b, factor=3.0)
        np.testing.assert_allclose(got, wanted, **TOLERANCE[dtype])


def test_several_launches() -> None:
    engine = lamina.build(model("y = kernels.unit (a)", shape="rows, 40"), target="cuda")
    a, b = values("float32", 9, 40)
    got = engine.run({"a": a, "b": b})["y"]
    np.testing.assert_allclose(got, kernels.unit(a), rtol=1e-5, atol=1e-6)


def test_a_kernel_that_is_compiled_ahead_of_time() -> None:
    net = roll_net(X)
    net.profile(x=((1, 3), (4, 3), (64, 3)))
    engine = built(net)
    (step,) = engine.section.program.steps
    assert step.kind is StepKind.KERNEL
    for x in (X, random(50, 3)):
        assert (engine.run({"x": x})["y0"] == np.roll(x, 1, axis=1)).all()


def copied(cuda: Any, target: int, source: int, size: int, stream: int) -> None:
    kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
    (error,) = cuda.cudaMemcpyAsync(target, source, size, kind, stream)
    assert int(error) == 0


class Swap(Plus):
    """Exchanges the halves of its rows; tactic 1 copies fifty times, and 9 fails."""

    cuda: Any = None

    def enqueue(
        self, inp: Any, out: Any, inputs: Any, outputs: Any, work: int, stream: int
    ) -> None:
        if self.tactic == 9:
            raise RuntimeError("tactic nine")
        half = 4 * int(np.prod(inp[0].dims)) // 2
        for _ in range(50 if self.tactic == 1 else 1):
            copied(self.cuda, outputs[0], inputs[0] + half, half, stream)
            copied(self.cuda, outputs[0] + half, inputs[0], half, stream)


class SwapCreator(trt.IPluginCreatorV3One):
    def __init__(self) -> None:
        super().__init__()
        self.name, self.plugin_version, self.plugin_namespace = "TunedPlus", "1", ""

    def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
        return Swap()


def test_tactics_of_a_callback_are_timed_on_the_device(cuda: Any) -> None:
    Swap.cuda = cuda
    Plus.told.clear()
    creator = SwapCreator()
    assert trt.get_plugin_registry().register_creator(creator)
    net = Net()
    swapped = net.network.add_plugin_v3([net.input("x", X, (-1, 3))], [], Swap())
    net.output(net.network.add_unary(swapped.get_output(0), trt.UnaryOperation.NEG).get_output(0))
    net.profile(x=((2, 3), (4, 3), (64, 3)))
    engine = built(net)
    assert Plus.told == [1, 2, 9]
    kinds = [step.kind for step in engine.section.program.steps]
    assert kinds == [StepKind.CALLBACK, StepKind.KERNEL]
    for x in (X, random(64, 3)):
        for _ in range(3):
            wanted = -np.concatenate([x[len(x) // 2 :], x[: len(x) // 2]])
            assert (engine.run({"x": x})["y0"] == wanted).all()
    assert Plus.told[3:] == [2]
    trt.get_plugin_registry().deregister_creator(creator)


def test_a_callback_that_raises_leaves_the_engine_usable(cuda: Any) -> None:
    @trtp.register("real::picky")
    def desc(x: trtp.TensorDesc) -> trtp.TensorDesc:
        return x.like()

    @trtp.impl("real::picky")
    def picky(x: trtp.Tensor, outputs: Any, stream: int) -> None:
        if x.shape[0] == 2:
            raise ValueError("two rows")
        copied(cuda, outputs[0].data_ptr, x.data_ptr, 4 * x.numel(), stream)

    net = Net()
    layer = net.network.add_plugin(trtp.op.real.picky(net.input("x", X, (-1, 3))))
    net.output(layer.get_output(0))
    net.profile(x=((1, 3), (4, 3), (64, 3)))
    engine = built(net)
    for _ in range(2):
        assert (engine.run({"x": X})["y0"] == X).all()
        with pytest.raises(lamina.ExecutionError, match="ValueError: two rows"):
            engine.run({"x": X[:2]})
