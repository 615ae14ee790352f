"""ONNX models through the parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lamina
import lamina.tensorrt as trt
from tests.tensorrt.running import Net, close, random


def model(*extra: onnx.NodeProto) -> onnx.ModelProto:
    """Return a convolution and a rectifier, and further nodes after them."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
        *extra,
    ]
    outputs = [extra[-1].output[0] if extra else "y"]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(random(4, 3, 3, 3, seed=1), "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets)


def unknown() -> onnx.ModelProto:
    return model(
        helper.make_node("Magic", ["y"], ["m"], domain="mine", name="magic"),
        helper.make_node("Neg", ["m"], ["z"], name="negate"),
    )


def parser() -> tuple[Net, Any]:
    net = Net()
    return net, trt.OnnxParser(net.network, net.logger)


def test_a_model_becomes_layers_and_runs() -> None:
    net, onnx_parser = parser()
    assert onnx_parser.parse(model().SerializeToString()) and onnx_parser.num_errors == 0
    assert net.network.num_inputs == net.network.num_outputs == 1
    assert [net.network.get_layer(i).name for i in range(len(net.network))][-2:] == ["conv", "relu"]
    assert onnx_parser.get_layer_output_tensor("conv", 0).shape == (-1, 4, 4, 4)
    assert onnx_parser.get_layer_output_tensor("none", 0) is None
    net.profile(x=((1, 3, 6, 6), (2, 3, 6, 6), (4, 3, 6, 6)))
    x = random(3, 3, 6, 6)
    close(net.run(x=x), lamina.build(model()).run({"x": x})["y"], 1e-5)


def test_files_with_external_data(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path, save_as_external_data=True, location="weights", size_threshold=0)
    for call in (
        lambda p: p.parse_from_file(str(path)),
        lambda p: p.parse(path.read_bytes(), str(path)),
    ):
        net, onnx_parser = parser()
        assert call(onnx_parser), net.logger.errors


def test_unknown_operators_are_named() -> None:
    net, onnx_parser = parser()
    assert not onnx_parser.parse(unknown().SerializeToString())
    assert onnx_parser.num_errors == 1
    error = onnx_parser.get_error(0)
    assert error.code() == trt.ErrorCode.UNSUPPORTED_NODE
    assert (error.node(), error.node_name(), error.node_operator()) == (2, "magic", "Magic")
    assert "magic" in net.logger.errors[-1]
    onnx_parser.clear_errors()
    assert onnx_parser.num_errors == 0


def test_parts_that_can_be_used() -> None:
    _, onnx_parser = parser()
    assert not onnx_parser.supports_model_v2(unknown().SerializeToString())
    parts = range(onnx_parser.num_subgraphs)
    assert [onnx_parser.get_subgraph_nodes(i) for i in parts] == [[0, 1], [2], [3]][: len(parts)]
    assert [onnx_parser.is_subgraph_supported(i) for i in parts][:2] == [True, False]
    whole, listed = onnx_parser.supports_model(model().SerializeToString())
    assert whole and listed == [([0, 1], True)]
    assert onnx_parser.supports_operator("Conv") and not onnx_parser.supports_operator("Magic")


@pytest.mark.parametrize("data", [b"", b"rubbish" * 10])
def test_rubbish_is_refused(data: bytes) -> None:
    net, onnx_parser = parser()
    assert not onnx_parser.parse(data)
    assert onnx_parser.get_error(0).code() == trt.ErrorCode.MODEL_DESERIALIZE_FAILED
    assert net.logger.errors
    with pytest.raises(TypeError):
        onnx_parser.parse(5)


def test_initializers_by_address() -> None:
    net, onnx_parser = parser()
    w = random(4, 3, 3, 3, seed=5)
    assert not onnx_parser.parse_model_proto()
    assert onnx_parser.load_model_proto(model().SerializeToString())
    assert onnx_parser.load_initializer("w", w.ctypes.data, w.nbytes)
    assert not onnx_parser.load_initializer("v", w.ctypes.data, w.nbytes)
    assert onnx_parser.parse_model_proto()
    net.profile(x=((1, 3, 6, 6),) * 3)
    same = Net()
    layer = same.network.add_convolution_nd(same.input("x", random(1, 3, 6, 6)), 4, (3, 3), w)
    relu = same.network.add_activation(layer.get_output(0), trt.ActivationType.RELU)
    same.output(relu.get_output(0))
    x = random(1, 3, 6, 6)
    close(net.run(x=x), same.run(x=x), 1e-5)


def test_flags_and_version() -> None:
    _, onnx_parser = parser()
    assert onnx_parser.get_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    onnx_parser.clear_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    assert onnx_parser.flags == 0
    assert trt.get_nv_onnx_parser_version() // 10000 == 10
