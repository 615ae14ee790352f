"""Plans through this API and through ``lamina.build`` are the same, byte for byte."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lamina
import lamina.tensorrt as trt
from lamina.builder import build_plan
from lamina.plan.format import write_plan
from lamina.plan.plan import Plan
from lamina.tensorrt import compile as compiling
from lamina.tensorrt import platform
from tests.tensorrt.running import Net, random

SHAPES = ((1, 3, 16, 16), (2, 3, 16, 16), (4, 3, 16, 16))


def model() -> bytes:
    """Return a convolution, an activation, pooling and a classifier; the batch is dynamic."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "kernel", "bias"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"], name="relu"),
        node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        node("Flatten", ["p"], ["f"], name="flat"),
        node("Gemm", ["f", "matrix", "offset"], ["l"], name="classify"),
        node("Softmax", ["l"], ["y"], name="shares", axis=1),
    ]
    weights = {
        "kernel": random(16, 3, 3, 3, seed=1),
        "bias": random(16, seed=2),
        "matrix": random(16, 10, seed=3),
        "offset": random(10, seed=4),
    }
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def through_tensorrt(flags: Any = ()) -> Plan:
    net = Net()
    assert trt.OnnxParser(net.network, net.logger).parse(model())
    net.profile(x=SHAPES)
    for flag in flags:
        net.config.set_flag(flag)
    data = net.builder.build_serialized_network(net.network, net.config)
    assert data is not None, net.logger.errors
    plan = lamina.load(bytes(data), device="none").plan
    assert [name for name, _ in plan.notes] == ["tensorrt"]  # all that this API adds
    return replace(plan, notes=())


OPTIONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({}, ()),
    ({"precision": "fp16"}, ("FP16",)),
    ({"refittable": True}, ("REFIT",)),
]


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_90"])
@pytest.mark.parametrize(("options", "flags"), OPTIONS, ids=["fp32", "fp16", "refittable"])
def test_plans_are_the_same(
    target: str, options: Any, flags: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if target != "cpu":
        monkeypatch.setattr(platform, "device", lambda: "cuda")

        def elsewhere(graph: Any, config: Any, progress: Any = None) -> Plan:
            """Build for the GPU of another machine; TensorRT has no cross-builds."""
            return build_plan(graph, replace(config, target=target), progress)

        monkeypatch.setattr(compiling, "build_plan", elsewhere)
    shapes = {"x": SHAPES}
    theirs = lamina.build(model(), target=target, shapes=shapes, optimization_level=0, **options)
    mine = through_tensorrt([trt.BuilderFlag.named(f) for f in flags])
    assert write_plan(mine) == theirs.serialize()
    if target == "cpu":
        x = random(2, 3, 16, 16, seed=5)
        np.testing.assert_array_equal(lamina.load(write_plan(mine))(x), theirs(x))
