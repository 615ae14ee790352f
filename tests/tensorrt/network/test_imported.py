"""Networks made of imported graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

import lamina
import lamina.tensorrt as trt
from lamina.importers.onnx import load
from lamina.ir.text import print_graph
from lamina.tensorrt.lower import lower
from lamina.tensorrt.network.imported import adopt
from tests.tensorrt.running import Net, close, random


def model() -> onnx.ModelProto:
    """Return conv, relu, a reshape by a computed shape, and non-zero."""
    weights = [
        numpy_helper.from_array(random(4, 3, 3, 3, seed=1), "w"),
        numpy_helper.from_array(np.array([0, -1]), "tail"),
        numpy_helper.from_array(np.array([0]), "zero"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Reshape", ["r", "tail"], ["y"], name="flatten"),
        helper.make_node("NonZero", ["y"], ["i"], name="nonzero"),
        helper.make_node("Gather", ["i", "zero"], ["rows"], axis=0, name="rows"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("rows", TensorProto.INT64, None),
        ],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def imported() -> tuple[Net, dict[str, Any]]:
    net = Net()
    return net, adopt(net.network, load(model()))


def test_the_plan_is_the_same_as_without_a_network() -> None:
    net, _ = imported()
    shapes = ((1, 3, 6, 6), (2, 3, 6, 6), (4, 3, 6, 6))
    net.profile(x=shapes)
    ours = net.build().plan
    theirs = lamina.build(model(), shapes={"x": shapes}, optimization_level=0).plan
    assert ours.graph == theirs.graph
    assert ours.ranges == theirs.ranges
    assert ours.sections[0].program == theirs.sections[0].program


def test_every_kind_of_node_comes_back_as_it_was() -> None:
    cases = [c for c in collect_testcases(None) if c.model is not None][::8]
    compared = 0
    for case in cases:
        try:
            graph = load(case.model)
            net = Net()
            adopt(net.network, graph)
            again = lower(net.network._state).graph
        except lamina.LaminaError as e:  # noqa: PERF203
            assert "TensorRT has no" in str(e) or "tensors only" in str(e), case.name
            continue
        assert print_graph(again) == print_graph(load(case.model)), case.name
        compared += 1
    assert compared > 150


def test_layers_have_kinds_and_tensors_have_names() -> None:
    net, tensors = imported()
    kinds = [layer.type.name for layer in net.network]
    assert {"CONVOLUTION", "ACTIVATION", "SHUFFLE", "NON_ZERO", "GATHER"} <= set(kinds)
    assert net.network.get_input(0).shape == (-1, 3, 6, 6)
    assert [net.network.get_output(i).name for i in range(2)] == ["y", "rows"]
    assert tensors["r"].shape == (-1, 4, 6, 6)
    assert "conv" in net.network.get_layer(1).name


def test_an_imported_network_can_be_made_static_and_continued() -> None:
    net, tensors = imported()
    net.network.get_input(0).shape = (2, 3, 6, 6)
    assert tensors["y"].shape == (2, 144)
    for _ in range(2):
        net.network.unmark_output(net.network.get_output(0))
    doubled = net.network.add_elementwise(
        tensors["y"], tensors["y"], trt.ElementWiseOperation.SUM
    ).get_output(0)
    net.output(doubled)
    x = random(2, 3, 6, 6)
    close(net.run(x=x), 2 * lamina.build(model()).run({"x": x})["y"], 1e-4)
