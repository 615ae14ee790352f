"""Plugins of both generations and decorated ones, through networks and ONNX models."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import lamina
import lamina.tensorrt as trt
import lamina.tensorrt.plugin as trtp
from lamina.ir.types import DType
from lamina.tensorrt.engine.memory import view
from tests.tensorrt.running import Messages, Net, close, random

X = random(2, 3)


def f32(address: int, desc: Any) -> np.ndarray:
    return view(address, DType.F32, tuple(desc.dims))


class Scale(trt.IPluginV2DynamicExt):
    """Multiplies and repeats the first axis."""

    def __init__(self, factor: float, times: int) -> None:
        super().__init__()
        self.factor, self.times = factor, times
        self.num_outputs = 1
        self.plugin_type, self.plugin_version = "TestScale", "2"
        self.configured: list[Any] = []

    def get_output_dimensions(self, index: int, inputs: Any, builder: Any) -> Any:
        shape = trt.DimsExprs(inputs[0])
        times = builder.constant(self.times)
        shape[0] = builder.operation(trt.DimensionOperation.PROD, inputs[0][0], times)
        return shape

    def supports_format_combination(self, pos: int, in_out: Any, num_inputs: int) -> bool:
        return in_out[pos].type == trt.float32 and in_out[pos].format == trt.TensorFormat.LINEAR

    def get_workspace_size(self, inp: Any, out: Any) -> int:
        return 16

    def serialize(self) -> bytes:
        return np.array([self.factor, self.times], np.float32).tobytes()

    def clone(self) -> Any:
        return Scale(self.factor, self.times)

    def enqueue(self, inp: Any, out: Any, inputs: Any, outputs: Any, work: int, stream: int) -> int:
        view(work, DType.I8, (16,))[:] = 0
        if self.factor < 0:
            raise RuntimeError("a negative factor")
        x = f32(inputs[0], inp[0])
        f32(outputs[0], out[0])[:] = np.concatenate([x * self.factor] * self.times)
        return 0


class ScaleCreator(trt.IPluginCreator):
    def __init__(self) -> None:
        super().__init__()
        self.name, self.plugin_version, self.plugin_namespace = "TestScale", "2", ""
        names = [trt.PluginField("factor"), trt.PluginField("times")]
        self.field_names = trt.PluginFieldCollection(names)

    def create_plugin(self, name: str, fields: Any) -> Any:
        found = {f.name: f.data for f in fields}
        return Scale(float(found["factor"][0]), int(found["times"][0]))

    def deserialize_plugin(self, name: str, data: bytes) -> Any:
        factor, times = np.frombuffer(data, np.float32)
        return Scale(float(factor), int(times))


class Nonzeros(
    trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuildV2, trt.IPluginV3OneRuntime
):
    """The places of elements above a limit, and their number."""

    def __init__(self, limit: float) -> None:
        trt.IPluginV3.__init__(self)
        trt.IPluginV3OneCore.__init__(self)
        trt.IPluginV3OneBuildV2.__init__(self)
        trt.IPluginV3OneRuntime.__init__(self)
        self.limit = limit
        self.num_outputs = 2
        self.plugin_name, self.plugin_version, self.plugin_namespace = "TestPlaces", "1", "acme"
        self.shapes: list[Any] = []

    def get_capability_interface(self, type: Any) -> Any:
        return self

    def get_output_data_types(self, types: Any) -> Any:
        return [trt.int32, trt.int32]

    def get_output_shapes(self, inputs: Any, shape_inputs: Any, builder: Any) -> Any:
        size = inputs[0][0]
        opt = builder.operation(trt.DimensionOperation.CEIL_DIV, size, builder.constant(2))
        count = builder.declare_size_tensor(1, opt, size)
        return [trt.DimsExprs([count]), trt.DimsExprs([])]

    def supports_format_combination(self, pos: int, in_out: Any, num_inputs: int) -> bool:
        return in_out[pos].desc.type == (trt.float32 if pos == 0 else trt.int32)

    def get_fields_to_serialize(self) -> Any:
        return trt.PluginFieldCollection(
            [
                trt.PluginField("limit", np.float32([self.limit]), trt.PluginFieldType.FLOAT32),
                trt.PluginField("note", b"hello", trt.PluginFieldType.CHAR),
            ]
        )

    def on_shape_change(self, inp: Any, out: Any) -> int:
        self.shapes.append(tuple(inp[0].dims))
        return 0

    def enqueue(
        self, inp: Any, out: Any, inputs: Any, outputs: Any, work: int, stream: int
    ) -> None:
        assert self.shapes[-1] == tuple(inp[0].dims)
        places = np.flatnonzero(f32(inputs[0], inp[0]) > self.limit)
        view(outputs[0], DType.I32, tuple(out[0].dims))[: len(places)] = places
        view(outputs[1], DType.I32, ())[...] = len(places)

    def clone(self) -> Any:
        return Nonzeros(self.limit)


class NonzerosCreator(trt.IPluginCreatorV3One):
    def __init__(self) -> None:
        super().__init__()
        self.name, self.plugin_version, self.plugin_namespace = "TestPlaces", "1", "acme"
        self.field_names = trt.PluginFieldCollection([trt.PluginField("limit")])

    def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
        found = {f.name: f.data for f in fields}
        if phase == trt.TensorRTPhase.RUNTIME:
            assert bytes(found["note"]) == b"hello"
        return Nonzeros(float(found["limit"][0]))


@pytest.fixture(scope="module", autouse=True)
def creators() -> Any:
    registry = trt.get_plugin_registry()
    made = [ScaleCreator(), NonzerosCreator()]
    assert registry.register_creator(made[0])
    assert registry.register_creator(made[1], "acme")
    assert not registry.register_creator(made[0])
    yield made
    for creator in made:
        assert registry.deregister_creator(creator)
    assert registry.get_creator("TestScale", "2") is None


def test_the_second_generation() -> None:
    net = Net()
    x = net.input("x", X, (-1, 3))
    layer = net.network.add_plugin_v2([x], Scale(3, 2))
    assert layer.type == trt.LayerType.PLUGIN_V2
    assert layer.plugin.factor == 3
    assert tuple(layer.get_output(0).shape) == (-1, 3)
    net.output(layer.get_output(0))
    net.profile(x=((1, 3), (2, 3), (4, 3)))
    engine = net.build()
    close(engine.run({"x": X})["y0"], np.concatenate([3 * X, 3 * X]))
    close(engine.run({"x": X[:1]})["y0"], np.concatenate([3 * X[:1]] * 2))


def test_a_plugin_that_raises_leaves_the_engine_usable() -> None:
    net = Net()
    layer = net.network.add_plugin_v2([net.input("x", X)], Scale(-1, 1))
    net.output(layer.get_output(0))
    data = net.builder.build_serialized_network(net.network, net.config)
    engine = trt.Runtime(net.logger).deserialize_cuda_engine(data)
    context = engine.create_execution_context()
    y = np.empty_like(X)
    context.set_tensor_address("x", X.ctypes.data)
    context.set_tensor_address("y0", y.ctypes.data)
    for _ in range(2):
        assert not context.execute_async_v3(0)
        assert "a negative factor" in net.logger.errors[-1]
        assert "in enqueue" in net.logger.errors[-1]
    with pytest.raises(lamina.ExecutionError, match="a negative factor"):
        lamina.load(bytes(data)).run({"x": X})


def test_types_that_a_plugin_refuses() -> None:
    net = Net()
    x = net.input("x", np.zeros(2, np.int32))
    net.output(net.network.add_plugin_v2([x], Scale(1, 1)).get_output(0))
    assert "does not support linear tensors" in net.fails()


def test_the_third_generation_with_sizes_from_data() -> None:
    net = Net()
    x = net.input("x", X.reshape(-1), (-1,))
    layer = net.network.add_plugin_v3([x], [], Nonzeros(0.0))
    assert layer.type == trt.LayerType.PLUGIN_V3
    assert tuple(layer.get_output(0).shape) == (-1,)
    net.output(layer.get_output(0), layer.get_output(1))
    net.profile(x=((1,), (6,), (60,)))
    engine = net.build()
    for x in (X.reshape(-1), random(31, seed=4)):
        got = engine.run({"x": x})
        assert got["y0"].tolist() == np.flatnonzero(x > 0).tolist()
        assert int(got["y1"]) == (x > 0).sum()


def parsed(nodes: Any, outputs: Any, shape: Any = (2, 3)) -> Any:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, k, s) for n, k, s in outputs],
    )
    opsets = [helper.make_opsetid("", 21)]
    opsets += [helper.make_opsetid(domain, 1) for domain in ("acme", "quick")]
    data = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    net = Net()
    parser = trt.OnnxParser(net.network, net.logger)
    assert parser.parse(data), net.logger.errors
    return net


def test_onnx_nodes_are_plugins_by_name() -> None:
    net = parsed(
        [helper.make_node("TestScale", ["x"], ["y"], factor=2.0, times=3, plugin_version="2")],
        [("y", onnx.TensorProto.FLOAT, (6, 3))],
    )
    assert net.network[0].type == trt.LayerType.PLUGIN_V2
    close(net.build().run({"x": X})["y"], np.concatenate([2 * X] * 3))
    net = parsed(
        [helper.make_node("TestPlaces", ["x"], ["y", "n"], domain="acme", limit=0.5)],
        [("y", onnx.TensorProto.INT32, ("k",)), ("n", onnx.TensorProto.INT32, ())],
        (6,),
    )
    x = X.reshape(-1)
    assert net.build().run({"x": x})["y"].tolist() == np.flatnonzero(x > 0.5).tolist()
    assert trt.OnnxParser(net.network, net.logger).supports_operator("TestScale")


@trtp.register("acme::affine")
def affine_desc(x: trtp.TensorDesc, factor: float, shift: int = 0) -> trtp.TensorDesc:
    out = x.like()
    out.shape_expr[0] = x.shape_expr[0] * 2
    return out


@trtp.impl("acme::affine")
def affine(x: trtp.Tensor, factor: float, shift: int, outputs: Any, stream: int) -> None:
    source, out = np.asarray(x), np.asarray(outputs[0])
    out[: len(source)] = source * np.float32(factor) + shift
    out[len(source) :] = 0


def test_decorated_plugins() -> None:
    net = Net()
    x = net.input("x", X, (-1, 3))
    layer = net.network.add_plugin(trtp.op.acme.affine(x, factor=2.0, shift=1))
    assert tuple(layer.get_output(0).shape) == (-1, 3)
    net.output(layer.get_output(0))
    net.profile(x=((1, 3), (2, 3), (4, 3)))
    expected = np.concatenate([2 * X + 1, 0 * X])
    close(net.build().run({"x": X})["y0"], expected)
    node = helper.make_node("affine", ["x"], ["y"], domain="acme", factor=2.0, shift=1)
    net = parsed([node], [("y", onnx.TensorProto.FLOAT, (4, 3))])
    close(net.build().run({"x": X})["y"], expected)
    with pytest.raises(TypeError):
        trtp.op.acme.affine(3, factor=2.0)
    with pytest.raises(AttributeError):
        trtp.op.acme.unknown
    with pytest.raises(ValueError):
        trtp.impl("acme::unknown")(affine)
    with pytest.raises(TypeError):
        net.network.add_plugin(3)


def test_decorated_plugins_with_sizes_from_data_and_aliases() -> None:
    @trtp.register("acme::positive")
    def positive_desc(x: trtp.TensorDesc) -> tuple[trtp.TensorDesc, trtp.TensorDesc]:
        count = trtp.size_tensor(trtp.cdiv(x.numel(), 2), x.numel())
        out = x.like()
        out.shape_expr = trtp.ShapeExprs([count.expr()])
        return out, count

    @trtp.impl("acme::positive")
    def positive(x: trtp.Tensor, outputs: Any, stream: int) -> None:
        found = np.asarray(x)[np.asarray(x) > 0]
        np.asarray(outputs[0])[: len(found)] = found
        np.asarray(outputs[1])[...] = len(found)

    @trtp.register("acme::twice_in_place")
    def twice_desc(x: trtp.TensorDesc) -> trtp.TensorDesc:
        return x.aliased()

    @trtp.impl("acme::twice_in_place")
    def twice(x: trtp.Tensor, outputs: Any, stream: int) -> None:
        assert outputs[0].is_aliased and outputs[0].data_ptr == x.data_ptr
        np.asarray(outputs[0])[...] *= 2

    flat = X.reshape(-1)
    net = Net()
    x = net.input("x", flat)
    positive_layer = net.network.add_plugin(trtp.op.acme.positive(x))
    twice_layer = net.network.add_plugin(trtp.op.acme.twice_in_place(x))
    net.output(positive_layer.get_output(0), twice_layer.get_output(0))
    engine = net.build()
    kept = flat.copy()
    got = engine.run({"x": flat})
    close(got["y0"], flat[flat > 0])
    close(got["y1"], 2 * kept)
    close(flat, kept)


def test_a_missing_creator_is_named(creators: Any) -> None:
    net = Net()
    net.output(net.network.add_plugin_v2([net.input("x", X)], Scale(1, 1)).get_output(0))
    engine = net.build()
    registry = trt.get_plugin_registry()
    assert registry.deregister_creator(creators[0])
    try:
        with pytest.raises(lamina.ExecutionError, match="TestScale.*no creator"):
            engine.run({"x": X})
    finally:
        assert registry.register_creator(creators[0])
    close(engine.run({"x": X})["y0"], X)


def test_errors_while_building_have_the_traceback() -> None:
    class Wrong(Scale):
        def get_output_dimensions(self, index: int, inputs: Any, builder: Any) -> Any:
            raise KeyError("no such size")

    net = Net()
    layer = net.network.add_plugin_v2([net.input("x", X)], Wrong(1, 1))
    net.network.mark_output(layer.get_output(0))
    message = net.fails()
    assert "KeyError" in message and "get_output_dimensions" in message


def test_resources_fields_and_libraries(tmp_path: Any) -> None:
    class Resource(trt.IPluginResource):
        released = 0

        def release(self) -> None:
            Resource.released += 1

    registry = trt.get_plugin_registry()
    kept = registry.acquire_plugin_resource("key", Resource())
    assert registry.acquire_plugin_resource("key", Resource()) is kept
    assert registry.release_plugin_resource("key") == 0 and Resource.released == 0
    assert registry.release_plugin_resource("key") == 0 and Resource.released == 1
    assert registry.release_plugin_resource("key") == -1
    field = trt.PluginField("a", np.int32([1, 2]))
    assert (field.type, field.size) == (trt.PluginFieldType.INT32, 2)
    file = tmp_path / "library.py"
    file.write_text("import lamina.tensorrt as trt\ntrt.loaded_by_test = True\n")
    assert registry.load_library(str(file)) == str(file)
    assert trt.__dict__.pop("loaded_by_test")
    assert trt.init_libnvinfer_plugins(Messages(), "")
    with pytest.raises(TypeError):
        trt.init_libnvinfer_plugins("logger", "")
