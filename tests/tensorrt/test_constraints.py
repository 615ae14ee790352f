"""Precision of single layers: made by hand and by the parser."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import lamina
import lamina.tensorrt as trt
from lamina.backends.cpu.features import cpu_features
from lamina.ir.graph import Graph
from lamina.ops import Cast, Matmul
from lamina.precision.pipeline import missing_feature
from lamina.respecialize import portable_graph
from tests.tensorrt.running import Net, close, random


def two_products() -> tuple[Net, Any, Any]:
    net = Net()
    net.config.set_flag(trt.BuilderFlag.FP16)
    x = net.network.add_input("x", trt.float32, (4, 16))
    layers = []
    for name in ("first", "second"):
        layer = net.network.add_matrix_multiply(
            x, trt.MatrixOperation.NONE, net.constant(weights(name)), trt.MatrixOperation.NONE
        )
        layer.name = name
        layers.append(layer)
        x = layer.get_output(0)
    net.output(x)
    return net, *layers


def weights(name: str) -> Any:
    return random(16, 16) if name == "first" else random(16, 16) + 1


def parsed(net: Net) -> Any:
    """Return a parsed model of two named products, ready to be changed."""
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
                helper.make_node("MatMul", ["h", "b"], ["y0"], name="second"),
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (4, 16))],
            [helper.make_tensor_value_info("y0", TensorProto.FLOAT, (4, 16))],
            [
                onnx.numpy_helper.from_array(weights("first"), "a"),
                onnx.numpy_helper.from_array(weights("second"), "b"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    parser = trt.OnnxParser(net.network, net.logger)
    assert parser.parse(model.SerializeToString())
    return {net.network.get_layer(i).name: i for i in range(net.network.num_layers)}


def rounded(engine: lamina.Engine) -> list[bool]:
    """Whether the weights of each product are stored in 16 bits."""
    graph: Graph = portable_graph(engine.plan)
    products = [n for n in graph.nodes() if isinstance(n.op, Matmul)]
    return [isinstance(n.inputs[1].op, Cast) for n in products]


def test_float_layers_keep_their_weights_in_fp16_builds() -> None:
    net, first, _ = two_products()
    assert rounded(net.build()) == [True, True]
    first.precision = trt.float32
    assert rounded(net.build()) == [False, True]
    first.reset_precision()
    assert rounded(net.build()) == [True, True]


def test_layers_of_the_parser_obey_too() -> None:
    net = Net()
    net.config.set_flag(trt.BuilderFlag.FP16)
    numbers = parsed(net)
    layer = net.network.get_layer(numbers["second"])
    layer.precision = trt.float32
    layer.metadata = "mine"
    layer.name = "renamed"
    engine = net.build()
    assert rounded(engine) == [True, False]
    assert '"metadata":"mine"' in dict(engine.plan.notes)["tensorrt"]
    assert "renamed" in {s.loc for s in engine.plan.sections[0].program.steps}
    close(engine(random(4, 16)), random(4, 16) @ weights("first") @ weights("second"), 1e-1)


@pytest.mark.skipif(
    missing_feature("bf16", cpu_features()) is not None, reason="needs a CPU with bf16"
)
def test_float_layers_multiply_f32_in_bf16_builds() -> None:
    net, first, _ = two_products()
    net.config.clear_flag(trt.BuilderFlag.FP16)
    net.config.set_flag(trt.BuilderFlag.BF16)
    exact = random(4, 16) @ weights("first") @ weights("second")
    errors = []
    for layers in ((), (first,)):
        for layer in layers:
            layer.precision = trt.float32
        engine = net.build()
        tensors = engine.plan.sections[0].program.tensors
        errors.append(float(np.abs(engine(random(4, 16)) - exact).max()))
        assert any(str(t.type).startswith("bf16") for t in tensors)
    assert errors[1] < errors[0]


def test_an_activation_that_is_float_does_not_widen_the_product_before_it() -> None:
    net, first, second = two_products()
    relu = net.network.add_activation(first.get_output(0), trt.ActivationType.RELU)
    relu.precision = trt.float32
    second.set_input(0, relu.get_output(0))
    assert rounded(net.build()) == [True, True]


def test_constraints_that_cannot_be_met() -> None:
    net, first, _ = two_products()
    net.config.clear_flag(trt.BuilderFlag.FP16)
    first.precision = trt.float16
    assert rounded(net.build()) == [False, False]
    assert not net.logger.errors
    net.config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    net.build()
    warnings = [m for s, m in net.logger.lines if s == "WARNING"]
    assert any("layer 'first' is to compute in HALF, but the flag FP16" in m for m in warnings)
    net.config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    assert "layer 'first' is to compute in HALF, but the flag FP16 is not set" in net.fails()


def test_an_integer_layer_without_a_range() -> None:
    net, first, second = two_products()
    net.config.set_flag(trt.BuilderFlag.INT8)
    net.config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    first.get_output(0).set_dynamic_range(-8, 8)
    second.precision = trt.int8
    net.build()
    first.precision = trt.int8
    assert "neither a dynamic range nor a scale" in net.fails()


def test_an_output_type_rounds_what_a_layer_gives() -> None:
    net = Net()
    numbers = parsed(net)
    x = random(4, 16)
    layer = net.network.get_layer(numbers["first"])
    layer.set_output_type(0, trt.float16)
    assert layer.output_type_is_set(0) and layer.get_output_type(0) == trt.float16
    half = (x @ weights("first")).astype(np.float16).astype(np.float32)
    close(net.run(x=x), half @ weights("second"), 1e-2)
    got, exact = net.run(x=x), x @ weights("first") @ weights("second")
    assert np.abs(got - half @ weights("second")).max() < np.abs(got - exact).max()


def test_an_output_type_of_the_last_layer_is_that_of_the_output() -> None:
    net = Net()
    numbers = parsed(net)
    net.network.get_layer(numbers["second"]).set_output_type(0, trt.float16)
    assert net.build().outputs[0].type.dtype.value == "f16"


def test_an_input_type_of_a_parsed_network_may_change() -> None:
    net = Net()
    parsed(net)
    net.network.get_input(0).dtype = trt.float16
    x = random(4, 16)
    close(net.run(x=x.astype(np.float16)), x @ weights("first") @ weights("second"), 5e-2)


def test_types_may_differ_between_the_operands_of_a_sum() -> None:
    net = Net()
    x = net.network.add_input("x", trt.float32, (4,))
    relu = net.network.add_activation(x, trt.ActivationType.RELU)
    relu.set_output_type(0, trt.float16)
    total = net.network.add_elementwise(relu.get_output(0), x, trt.ElementWiseOperation.SUM)
    net.output(total.get_output(0))
    given = random(4)
    close(net.run(x=given), np.maximum(given, 0) + given, 1e-2)


def test_weights_of_another_width_than_the_input() -> None:
    net = Net()
    x = net.network.add_input("x", trt.float16, (1, 4, 8, 8))
    w = random(4, 4, 3, 3)
    conv = net.network.add_convolution_nd(x, 4, (3, 3), w, random(4))
    net.output(conv.get_output(0))
    given = random(1, 4, 8, 8).astype(np.float16)
    wide = Net()
    y = wide.network.add_input("x", trt.float32, (1, 4, 8, 8))
    conv = wide.network.add_convolution_nd(y, 4, (3, 3), w, random(4))
    wide.output(conv.get_output(0))
    close(net.run(x=given), wide.run(x=given.astype(np.float32)), 1e-2)
