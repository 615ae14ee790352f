"""ONNX models become networks that a program may change before it builds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import lamina
import lamina.tensorrt as trt
from tests.tensorrt.running import Messages, close, random

F, D = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE


def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: Any = ()) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("acme", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def value(name: str, shape: Any, kind: int = F) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


W = random(4, 3)
MLP = model(
    [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="fc"),
        helper.make_node("Relu", ["h"], ["r"], name="act"),
        helper.make_node("Sigmoid", ["r"], ["y"], name="last"),
    ],
    [value("x", ["n", 4])],
    [value("y", ["n", 3])],
    [numpy_helper.from_array(W, "w")],
)
X = random(2, 4, seed=1)


class Parsing:
    def __init__(self) -> None:
        self.logger = Messages()
        self.builder = trt.Builder(self.logger)
        self.network = self.builder.create_network(0)
        self.parser = trt.OnnxParser(self.network, self.logger)
        self.config = self.builder.create_builder_config()
        self.config.builder_optimization_level = 0

    def build(self, **shapes: Any) -> lamina.Engine:
        if shapes:
            profile = self.builder.create_optimization_profile()
            for name, shape in shapes.items():
                profile.set_shape(name, *shape)
            self.config.add_optimization_profile(profile)
        data = self.builder.build_serialized_network(self.network, self.config)
        assert data is not None, self.logger.errors
        return lamina.load(bytes(data))


def test_a_model_becomes_layers_with_the_names_of_its_nodes() -> None:
    p = Parsing()
    assert p.parser.parse(MLP), p.logger.errors
    assert p.parser.num_errors == 0
    names = [layer.name for layer in p.network]
    assert [n for n in names if n in ("fc", "act", "last")] == ["fc", "act", "last"]
    assert tuple(p.network.get_input(0).shape) == (-1, 4)
    assert p.parser.get_layer_output_tensor("act", 0).name == "r"
    assert p.parser.get_layer_output_tensor("act", 7) is None


def test_a_parsed_network_may_get_more_layers_outputs_and_other_names() -> None:
    p = Parsing()
    assert p.parser.parse(MLP)
    inner = p.parser.get_layer_output_tensor("fc", 0)
    twice = p.network.add_elementwise(inner, inner, trt.ElementWiseOperation.SUM).get_output(0)
    twice.name = "twice"
    p.network.mark_output(twice)
    p.network.get_output(0).name = "renamed"
    got = p.build(x=((1, 4), (2, 4), (8, 4))).run({"x": X})
    product = X @ W
    close(got["twice"], 2 * product)
    close(got["renamed"], 1 / (1 + np.exp(-np.maximum(product, 0))))


def test_the_plan_is_that_of_lamina_build(tmp_path: Any) -> None:
    p = Parsing()
    assert p.parser.parse(MLP)
    shapes = ((1, 4), (2, 4), (8, 4))
    mine = p.build(x=shapes)
    theirs = lamina.build(MLP, shapes={"x": shapes}, optimization_level=0)
    assert mine.plan.graph == theirs.plan.graph


def test_unsupported_nodes_are_all_listed_with_their_places() -> None:
    data = model(
        [
            helper.make_node("Relu", ["x"], ["a"], name="first"),
            helper.make_node("Odd", ["a"], ["b"], name="strange", domain="acme"),
            helper.make_node("Exp", ["b"], ["c"], name="third"),
            helper.make_node("Even", ["c"], ["y"], name="stranger", domain="acme"),
        ],
        [value("x", [2])],
        [value("y", [2])],
    )
    p = Parsing()
    assert not p.parser.parse(data)
    errors = [p.parser.get_error(i) for i in range(p.parser.num_errors)]
    assert [e.node() for e in errors] == [1, 3]
    assert [e.node_name() for e in errors] == ["strange", "stranger"]
    assert [e.node_operator() for e in errors] == ["Odd", "Even"]
    assert {e.code() for e in errors} == {trt.ErrorCode.UNSUPPORTED_NODE}
    assert "Odd" in errors[0].desc()
    assert any("strange" in line for line in p.logger.errors)
    p.parser.clear_errors()
    assert p.parser.num_errors == 0
    supported, parts = p.parser.supports_model(data)
    assert not supported
    assert parts == [([0], True), ([1], False), ([2], True), ([3], False)]
    assert not p.parser.supports_model_v2(data)
    assert p.parser.num_subgraphs == 4
    assert p.parser.is_subgraph_supported(2)
    assert p.parser.get_subgraph_nodes(3) == [3]


def test_a_wrong_node_is_named() -> None:
    data = model(
        [helper.make_node("MatMul", ["x", "x"], ["y"], name="square")],
        [value("x", [2, 3])],
        [value("y", [2, 3])],
    )
    p = Parsing()
    assert not p.parser.parse(data)
    error = p.parser.get_error(0)
    assert (error.node(), error.node_name()) == (0, "square")
    assert error.code() == trt.ErrorCode.INVALID_NODE
    assert error.line() > 0
    assert p.network.num_layers == 0


def test_rubbish_is_an_error_and_other_types_a_type_error() -> None:
    p = Parsing()
    assert not p.parser.parse(b"rubbish")
    assert p.parser.get_error(0).code() == trt.ErrorCode.MODEL_DESERIALIZE_FAILED
    assert not p.parser.parse_from_file("/nowhere/model.onnx")
    assert "/nowhere/model.onnx" in p.parser.get_error(1).desc()
    with pytest.raises(TypeError):
        p.parser.parse(3)
    with pytest.raises(TypeError):
        trt.OnnxParser(p.network, "logger")
    with pytest.raises(IndexError):
        p.parser.get_error(9)


def test_external_data_lies_beside_the_path(tmp_path: Any) -> None:
    proto = onnx.load_from_string(MLP)
    file = tmp_path / "m.onnx"
    onnx.save(proto, file, save_as_external_data=True, location="w.bin", size_threshold=0)
    for parse in (
        lambda p: p.parse(file.read_bytes(), str(file)),
        lambda p: p.parse_from_file(str(file)),
    ):
        p = Parsing()
        assert parse(p.parser), p.logger.errors
    assert not Parsing().parser.parse(file.read_bytes())


def test_initializers_may_come_from_memory() -> None:
    p = Parsing()
    other = np.ascontiguousarray(2 * W)
    assert p.parser.load_model_proto(MLP)
    assert p.parser.load_initializer("w", other.ctypes.data, other.nbytes)
    assert not p.parser.load_initializer("nothing", other, other.nbytes)
    assert not p.parser.load_initializer("w", other, 4)
    assert p.parser.parse_model_proto()
    got = p.build(x=((1, 4), (2, 4), (8, 4))).run({"x": X})["y"]
    close(got, 1 / (1 + np.exp(-np.maximum(X @ other, 0))))


def test_doubles_become_floats_with_a_warning() -> None:
    data = model(
        [helper.make_node("Exp", ["x"], ["y"])], [value("x", [2], D)], [value("y", [2], D)]
    )
    p = Parsing()
    assert p.parser.parse(data), p.logger.errors
    assert p.network.get_input(0).dtype == trt.float32
    assert any("DOUBLE" in m for s, m in p.logger.lines if s == "WARNING")
    close(p.build().run({"x": np.float32([0, 1])})["y"], np.exp(np.float32([0, 1])))


def test_flags_and_operators() -> None:
    p = Parsing().parser
    flag = trt.OnnxParserFlag.NATIVE_INSTANCENORM
    assert p.get_flag(flag)
    p.clear_flag(flag)
    assert p.flags == 0
    p.flags = 1 << int(flag)
    assert p.get_flag(flag)
    assert p.supports_operator("Conv")
    assert p.supports_operator("Gelu")
    assert not p.supports_operator("Nonsense")
    assert p.get_used_vc_plugin_libraries() == []
    assert trt.get_nv_onnx_parser_version() == 101601


def test_networks_without_a_batch_are_refused() -> None:
    trt.use("8.6")
    try:
        p = Parsing()
        assert not p.parser.parse(MLP)
        assert "EXPLICIT_BATCH" in p.parser.get_error(0).desc()
    finally:
        trt.use("10")
