"""Plugins of the quick kind: subclasses, and decorated ones in the registry."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

import lamina
import lamina.tensorrt as trt
import lamina.tensorrt.plugin as trtp
from lamina.ir.types import DType
from lamina.tensorrt.engine.memory import view
from tests.tensorrt.plugins.test_plugins import parsed
from tests.tensorrt.running import Net, close, random

X = random(4, 3)


class Shift(
    trt.IPluginV3, trt.IPluginV3QuickCore, trt.IPluginV3QuickBuild, trt.IPluginV3QuickRuntime
):
    """Adds a number to the transposed operand, read by its strides."""

    def __init__(self, by: float) -> None:
        trt.IPluginV3.__init__(self)
        trt.IPluginV3QuickCore.__init__(self)
        trt.IPluginV3QuickBuild.__init__(self)
        trt.IPluginV3QuickRuntime.__init__(self)
        self.plugin_name, self.plugin_namespace, self.plugin_version = "Shift", "quick", "1"
        self.num_outputs, self.by, self.tactic = 1, by, -1

    def get_capability_interface(self, type: Any) -> Any:
        return self

    def get_output_data_types(self, types: Any, ranks: Any) -> Any:
        assert list(ranks) == [2]
        return [types[0]]

    def get_output_shapes(self, inputs: Any, shape_inputs: Any, builder: Any) -> Any:
        return [trt.DimsExprs([inputs[0][1], inputs[0][0]])]

    def get_supported_format_combinations(self, in_out: Any, num_inputs: int) -> Any:
        found = []
        for kind in (trt.float16, trt.float32):
            for _ in in_out:
                desc = trt.PluginTensorDesc()
                desc.type = kind
                found.append(desc)
        return found

    def get_fields_to_serialize(self) -> Any:
        return trt.PluginFieldCollection([trt.PluginField("by", np.float32([self.by]))])

    def set_tactic(self, tactic: int) -> None:
        self.tactic = tactic

    def enqueue(
        self, inp: Any, out: Any, inputs: Any, outputs: Any, strides: Any, more: Any, stream: int
    ) -> None:
        assert strides[0] == (3, 1) and self.tactic == 0
        x = view(inputs[0], DType.F32, tuple(inp[0].dims))
        view(outputs[0], DType.F32, tuple(out[0].dims))[...] = x.T + self.by

    def clone(self) -> Any:
        return Shift(self.by)


class ShiftCreator(trt.IPluginCreatorV3Quick):
    def __init__(self) -> None:
        super().__init__()
        self.name, self.plugin_namespace, self.plugin_version = "Shift", "quick", "1"
        self.field_names = trt.PluginFieldCollection([trt.PluginField("by")])

    def create_plugin(
        self, name: str, namespace: str, fields: Any, phase: Any, request: Any
    ) -> Any:
        assert (name, namespace) == ("Shift", "quick")
        return Shift(float(fields[0].data[0]))


def test_subclasses() -> None:
    creator = ShiftCreator()
    registry = trt.get_plugin_registry()
    assert registry.register_creator(creator, "quick")
    net = Net()
    net.output(net.network.add_plugin_v3([net.input("x", X)], [], Shift(2)).get_output(0))
    close(net.build().run({"x": X})["y0"], X.T + 2)
    net = Net()
    x = net.input("x", X.astype(np.int32))
    net.output(net.network.add_plugin_v3([x], [], Shift(2)).get_output(0))
    assert "does not support linear tensors" in net.fails()
    assert registry.deregister_creator(creator)


@trtp.register("quick::pad")
def pad_desc(
    x: trtp.TensorDesc, pads: npt.NDArray[np.int32], value: float = 0.0
) -> trtp.TensorDesc:
    out = x.like()
    out.shape_expr[1] += int(pads[0] + pads[1])
    return out


@trtp.impl("quick::pad")
def pad(x: Any, pads: Any, value: float, outputs: Any, stream: int) -> None:
    assert pads.dtype == np.int32
    shape = trtp.Shape(x.shape)
    shape[1] += pads[0] + pads[1]
    assert outputs[0].shape == shape and shape.numel() == outputs[0].numel()
    widths = [(0, 0), tuple(pads)]
    np.asarray(outputs[0])[...] = np.pad(np.asarray(x), widths, constant_values=value)


PADDED = np.pad(X, [(0, 0), (1, 2)], constant_values=7)


def test_decorated_plugins_are_in_the_registry() -> None:
    registry = trt.get_plugin_registry()
    creator = registry.get_creator("pad", "1", "quick")
    assert creator in registry.all_creators and creator in registry.all_creators_recursive
    assert [f.name for f in creator.field_names] == ["pads", "value"]
    fields = trt.PluginFieldCollection(
        [trt.PluginField("pads", np.int32([1, 2])), trt.PluginField("value", np.float32([7]))]
    )
    build = trt.TensorRTPhase.BUILD
    request = trt.QuickPluginCreationRequest.PREFER_AOT
    plugin = creator.create_plugin("pad", "quick", fields, build, request)
    assert (plugin.plugin_name, plugin.plugin_namespace) == ("pad", "quick")
    kept = {f.name: f.data.tolist() for f in plugin.get_fields_to_serialize()}
    assert kept == {"pads": [1, 2], "value": [7.0]}
    for add in (
        lambda net, x: net.add_plugin(([x], [], plugin)),
        lambda net, x: net.add_plugin_v3([x], [], plugin.clone()),
        lambda net, x: net.add_plugin(trtp.op.quick.pad(x, pads=np.int32([1, 2]), value=7.0)),
    ):
        net = Net()
        net.output(add(net.network, net.input("x", X)).get_output(0))
        data = net.build().serialize()
        close(lamina.load(data).run({"x": X})["y0"], PADDED)
    fields.append(trt.PluginField("mode", np.int32([1])))
    with pytest.raises(lamina.GraphError, match="no attribute 'mode'"):
        creator.create_plugin("pad", "quick", fields, build)


def test_registration_on_first_use() -> None:
    @trtp.register("quick::lazy", lazy_register=True)
    def lazy(x: trtp.TensorDesc) -> trtp.TensorDesc:
        return x.like()

    registry = trt.get_plugin_registry()
    assert registry.get_creator("lazy", "1", "quick") is None
    assert trtp.op.quick.lazy is not None
    assert registry.get_creator("lazy", "1", "quick") in registry.all_creators


def test_nodes_find_decorated_plugins_with_and_without_namespace() -> None:
    for options in ({"plugin_namespace": "quick"}, {"domain": "quick"}, {}):
        attributes = {"pads": [1, 2], "value": 7.0, **options}
        node = helper.make_node("pad", ["x"], ["y"], **attributes)
        net = parsed([node], [("y", onnx.TensorProto.FLOAT, (4, 6))], (4, 3))
        close(net.build().run({"x": X})["y"], PADDED)


def test_the_implementation_that_is_asked_for() -> None:
    net = Net()
    call = trtp.op.quick.pad(net.input("x", X), pads=np.int32([1, 2]))
    layer = net.network.add_plugin(call, aot=True)
    net.output(layer.get_output(0))
    assert "no implementation that is compiled ahead of time" in net.fails()
    net = Net(1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS))
    call = trtp.op.quick.pad(net.input("x", X), pads=np.int32([1, 2]), value=7.0)
    net.output(net.network.add_plugin(call).get_output(0))
    close(net.build().run({"x": X})["y0"], PADDED)
