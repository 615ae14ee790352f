"""Inputs and outputs in vectorized layouts and with channels last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from lamina import ops
from lamina.tensorrt.engine.formats import FORMATS
from tests.tensorrt.running import Net, random

IMAGES = {"CHW2": 2, "CHW4": 4, "CHW16": 16, "CHW32": 32, "HWC": 1, "HWC8": 8, "HWC16": 16}
VOLUMES = {"CDHW32": 32, "DHWC": 1, "DHWC8": 8}


def memory(array: Any, name: str, fill: float = np.nan) -> Any:
    """Return the memory of a tensor [N, C, ...] in a format, by the definition of formats."""
    components = {**IMAGES, **VOLUMES}[name]
    n, c, *rest = array.shape
    vectors = -(-c // components)
    last = "C" in name and name.index("C") > name.index("W")
    shape = (n, *rest, vectors * components) if last else (n, vectors, *rest, components)
    found = np.full(shape, fill, array.dtype)
    for channel in range(c):
        if last:
            found[..., channel] = array[:, channel]
        else:
            found[:, channel // components, ..., channel % components] = array[:, channel]
    return found


def bit(name: str) -> int:
    return 1 << int(trt.TensorFormat.__members__[name])


def network(name: str, shape: tuple[int, ...], *, dynamic: bool = False) -> Net:
    """Return a convolution whose input and output have a format."""
    net = Net()
    net.config.builder_optimization_level = 1
    channels, rank = shape[1], len(shape) - 2
    declared = (-1, *shape[1:]) if dynamic else shape
    x = net.network.add_input("x", trt.float32, declared)
    w = random(channels, channels, *(3,) * rank)
    conv = net.network.add_convolution_nd(x, channels, (3,) * rank, w)
    conv.padding_nd = (1,) * rank
    relu = net.network.add_activation(conv.get_output(0), trt.ActivationType.RELU)
    net.output(relu.get_output(0))
    if dynamic:
        net.profile(x=((1, *shape[1:]), shape, (8, *shape[1:])))
    x.allowed_formats = relu.get_output(0).allowed_formats = bit(name)
    return net


def engine_of(net: Net) -> Any:
    data = net.builder.build_serialized_network(net.network, net.config)
    assert data is not None, "\n".join(net.logger.errors)
    return trt.Runtime(net.logger).deserialize_cuda_engine(data)


def execute(engine: Any, x: Any, shape: tuple[int, ...], y: Any) -> Any:
    context = engine.create_execution_context()
    assert context.set_input_shape("x", shape)
    context.set_tensor_address("x", x.ctypes.data)
    context.set_tensor_address("y0", y.ctypes.data)
    assert context.execute_async_v3(0)
    return context


def linear(shape: tuple[int, ...], x: Any) -> Any:
    return network("LINEAR", shape).run(x=x)


@pytest.mark.parametrize("channels", [3, 32])
@pytest.mark.parametrize("name", [*IMAGES, *VOLUMES])
def test_memory_is_read_and_written_in_the_format(name: str, channels: int) -> None:
    shape = (2, channels, *(5,) * (2 if name in IMAGES else 3))
    x = random(*shape)
    engine = engine_of(network(name, shape))
    given = memory(x, name)  # padding that is not read: it is NaN
    y = np.full_like(given, 7)
    context = execute(engine, given, shape, y)
    expected = linear(shape, x)
    np.testing.assert_allclose(y, memory(expected, name, 0), rtol=1e-3, atol=1e-3)
    assert tuple(context.get_tensor_shape("y0")) == shape
    assert context.get_max_output_size("y0") == y.nbytes


@pytest.mark.parametrize("name", [*IMAGES, *VOLUMES])
def test_the_engine_tells_the_format(name: str) -> None:
    shape = (2, 3, *(5,) * (2 if name in IMAGES else 3))
    engine = engine_of(network(name, shape))
    components = {**IMAGES, **VOLUMES}[name]
    for tensor in ("x", "y0"):
        assert engine.get_tensor_format(tensor).name == name
        assert tuple(engine.get_tensor_shape(tensor)) == shape
        vectorized = components > 1
        assert engine.get_tensor_components_per_element(tensor) == (
            components if vectorized else -1
        )
        assert engine.get_tensor_bytes_per_component(tensor) == (4 if vectorized else -1)
        assert engine.get_tensor_vectorized_dim(tensor) == (1 if vectorized else -1)
        assert f"k{name}" in engine.get_tensor_format_desc(tensor)
    context = engine.create_execution_context()
    array = memory(random(*shape), name)
    components_last = array.shape[-1] if "C" in name and name.endswith("C") else None
    strides = tuple(context.get_tensor_strides("x"))
    if name in ("HWC", "DHWC"):
        assert strides[1] == 1 and strides[-1] == components_last
    assert strides[0] == array.strides[0] // array.itemsize // components


def test_strides_of_eight_wide_channels_last() -> None:
    context = engine_of(network("HWC8", (2, 12, 5, 7))).create_execution_context()
    assert tuple(context.get_tensor_strides("x")) == (5 * 7 * 2, 1, 7 * 2, 2)


def test_a_dynamic_batch() -> None:
    net = network("CHW16", (4, 20, 5, 5), dynamic=True)
    engine = engine_of(net)
    assert tuple(engine.get_tensor_shape("x")) == (-1, 20, 5, 5)
    for batch in (1, 3, 8):
        shape = (batch, 20, 5, 5)
        x = random(*shape)
        given = memory(x, "CHW16")
        y = np.zeros_like(given)
        execute(engine, given, shape, y)
        expected = memory(linear(shape, x), "CHW16", 0)
        np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)
    context = engine.create_execution_context()
    assert not context.set_input_shape("x", (9, 20, 5, 5))


def steps(net: Net) -> list[str]:
    return [s.name for s in net.build().plan.sections[0].program.steps]


@pytest.mark.parametrize("name", ["HWC", "HWC16", "CHW16"])
@pytest.mark.parametrize("level", [0, 1, 3])
def test_nothing_is_copied_where_kernels_work_on_the_format(name: str, level: int) -> None:
    net = network(name, (1, 32, 14, 14))
    net.config.builder_optimization_level = level
    net.config.set_flag(trt.BuilderFlag.DIRECT_IO)
    assert steps(net) == ["convolution"]


def test_direct_io_refuses_formats_that_need_a_copy() -> None:
    net = network("CHW4", (1, 3, 14, 14))
    assert len(steps(net)) > 1
    net.config.set_flag(trt.BuilderFlag.DIRECT_IO)
    message = net.fails()
    assert "DIRECT_IO is set" in message and "Tensor x" in message


def test_of_several_formats_the_one_with_the_fewest_copies_is_taken() -> None:
    net = network("HWC", (1, 32, 14, 14))
    net.network.get_input(0).allowed_formats = bit("HWC") | bit("LINEAR")
    net.config.set_tactic_sources(1 << int(trt.TacticSource.CUDNN))
    net.config.algorithm_selector = ChannelsLast()
    engine = engine_of(net)
    assert engine.get_tensor_format("x").name == engine.get_tensor_format("y0").name == "HWC"
    net = Net()
    x = net.network.add_input("x", trt.float32, (2, 8, 6, 6))
    x.allowed_formats = bit("HWC") | bit("LINEAR") | bit("CHW4")
    net.output(net.network.add_softmax(x).get_output(0))
    assert engine_of(net).get_tensor_format("x").name == "LINEAR"


class ChannelsLast(trt.IAlgorithmSelector):
    def __init__(self) -> None:
        trt.IAlgorithmSelector.__init__(self)

    def select_algorithms(self, context: Any, choices: Any) -> list[int]:
        return [i for i, c in enumerate(choices) if c.get_algorithm_io_info(0).strides[1] == 1]

    def report_algorithms(self, contexts: Any, choices: Any) -> None:
        pass


def test_formats_that_a_tensor_cannot_have_are_refused() -> None:
    net = network("DLA_LINEAR", (1, 8, 6, 6))
    assert "'x' allows the formats ['DLA_LINEAR'] alone" in net.fails()
    net = Net()
    x = net.network.add_input("x", trt.float32, (8, 6))
    x.allowed_formats = bit("HWC")
    net.output(net.network.add_activation(x, trt.ActivationType.RELU).get_output(0))
    assert "'x' has 2 axes, too few for the format HWC" in net.fails()
    net = Net()
    x = net.network.add_input("x", trt.float32, (1, -1, 6, 6))
    x.allowed_formats = bit("CHW4")
    net.output(net.network.add_activation(x, trt.ActivationType.RELU).get_output(0))
    net.profile(x=((1, 4, 6, 6), (1, 4, 6, 6), (1, 8, 6, 6)))
    assert "a dynamic number of channels" in net.fails()


def test_channels_alone_may_be_dynamic_with_channels_last() -> None:
    net = Net()
    x = net.network.add_input("x", trt.float32, (2, -1, 3, 5))
    relu = net.network.add_activation(x, trt.ActivationType.RELU).get_output(0)
    net.output(relu)
    x.allowed_formats = relu.allowed_formats = bit("HWC")
    net.profile(x=((2, 1, 3, 5), (2, 4, 3, 5), (2, 8, 3, 5)))
    engine = engine_of(net)
    array = random(2, 6, 3, 5)
    given = memory(array, "HWC")
    y = np.zeros_like(given)
    context = execute(engine, given, (2, 6, 3, 5), y)
    np.testing.assert_array_equal(y, memory(np.maximum(array, 0), "HWC"))
    assert tuple(context.get_tensor_strides("x")) == (90, 1, 30, 6)


def test_half_precision_and_integers() -> None:
    for dtype, kind in ((np.float16, trt.float16), (np.int32, trt.int32)):
        net = Net()
        x = net.network.add_input("x", kind, (1, 5, 4, 4))
        total = net.network.add_elementwise(x, x, trt.ElementWiseOperation.SUM).get_output(0)
        net.output(total)
        x.allowed_formats = bit("CHW2")
        total.allowed_formats = bit("HWC8")
        array = (random(1, 5, 4, 4) * 8).astype(dtype)
        y = np.zeros((1, 4, 4, 8), dtype)
        execute(engine_of(net), memory(array, "CHW2", 0), array.shape, y)
        np.testing.assert_array_equal(y, memory(array + array, "HWC8", 0))


@pytest.mark.parametrize("name", FORMATS)
def test_physical_and_logical_shapes_are_inverse(name: str) -> None:
    format = FORMATS[name]
    for shape in ((2, 7, 3, 5), (2, 32, 3, 5), (7, 4, 3, 5)):
        given = shape if format.spatial == 2 else (1, *shape)
        channels = given[format.axis(len(given))]
        assert format.logical(format.physical(given), channels) == given


def test_a_movement_is_a_view_only_where_no_element_moves() -> None:
    from lamina.backends.cpu.compiler import CpuCompiler
    from lamina.config import BuildConfig
    from lamina.ir.graph import Graph, emit
    from lamina.ir.loc import Loc
    from lamina.ir.types import DType, TensorType
    from lamina.tactics.relaid import relaid_forms

    target = CpuCompiler(BuildConfig(), {}, lambda *_: None).target
    graph = Graph()
    x = graph.input("x", TensorType(DType.F32, (2, 3, 4, 5)))

    def forms(perm: tuple[int, ...]) -> list[tuple[str, str]]:
        node = emit(ops.Transpose(perm=perm), (x,), loc=Loc("t")).node
        assert node is not None
        return [(str(a), str(b)) for a, b in relaid_forms(node, target)]

    assert forms((0, 3, 1, 2)) == [("plain", "channels_last")]
    assert forms((0, 2, 3, 1)) == [("channels_last", "plain")]
    assert forms((0, 1, 3, 2)) == []


def test_halves_with_channels_last_need_no_copy_of_their_own() -> None:
    net = network("HWC", (1, 32, 14, 14))
    for tensor in (net.network.get_input(0), net.network.get_output(0)):
        tensor.dtype = trt.float16
    net.config.set_flag(trt.BuilderFlag.DIRECT_IO)
    engine = net.build()
    assert [s.name for s in engine.plan.sections[0].program.steps if s.name == "transpose"] == []
    x = random(1, 32, 14, 14).astype(np.float16)
    expected = linear(x.shape, x.astype(np.float32))
    got = engine(memory(x, "HWC", 0)).astype(np.float32)
    np.testing.assert_allclose(got, memory(expected, "HWC", 0), rtol=1e-2, atol=1e-2)


@pytest.fixture
def _legacy() -> Iterator[None]:
    trt.use("8.6")
    yield
    trt.use("10")


@pytest.mark.usefixtures("_legacy")
def test_an_implicit_batch() -> None:
    net = Net()
    net.builder.max_batch_size = 4
    x = net.network.add_input("x", trt.float32, (3, 5, 5))
    relu = net.network.add_activation(x, trt.ActivationType.RELU).get_output(0)
    net.output(relu)
    x.allowed_formats, relu.allowed_formats = bit("CHW4"), bit("HWC8")
    engine = engine_of(net)
    assert engine.get_binding_format(0).name == "CHW4"
    assert engine.get_binding_vectorized_dim(0) == 0
    array = random(2, 3, 5, 5)
    given, y = memory(array, "CHW4"), np.zeros((2, 5, 5, 8), np.float32)
    context = engine.create_execution_context()
    assert context.execute(2, [given.ctypes.data, y.ctypes.data])
    np.testing.assert_array_equal(y, memory(np.maximum(array, 0), "HWC8", 0))


def test_an_image_without_a_batch() -> None:
    net = Net()
    x = net.network.add_input("x", trt.float32, (3, 5, 4))
    relu = net.network.add_activation(x, trt.ActivationType.RELU).get_output(0)
    net.output(relu)
    x.allowed_formats, relu.allowed_formats = bit("HWC"), bit("CHW4")
    array = random(3, 5, 4)
    got = net.run(x=np.ascontiguousarray(array.transpose(1, 2, 0)))
    np.testing.assert_array_equal(got, memory(np.maximum(array, 0)[None], "CHW4", 0)[0])
