"""What plugins are told while an engine is built, and which of their tactics is taken."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import lamina
import lamina.tensorrt as trt
import lamina.tensorrt.plugin as trtp
from lamina.ir.types import DType
from lamina.tensorrt.engine.memory import view
from tests.tensorrt.running import Net, close, random

X = random(4, 3)


class Plus(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
    """Adds the number of its tactic; tactic 1 is slow and tactic 9 fails."""

    told: list[int] = []

    def __init__(self, identity: str = "plus") -> None:
        trt.IPluginV3.__init__(self)
        trt.IPluginV3OneCore.__init__(self)
        trt.IPluginV3OneBuild.__init__(self)
        trt.IPluginV3OneRuntime.__init__(self)
        self.plugin_name, self.plugin_version, self.plugin_namespace = "TunedPlus", "1", ""
        self.num_outputs, self.timing_cache_id = 1, identity
        self.ranges: list[Any] = []
        self.tactic = 0

    def get_capability_interface(self, type: Any) -> Any:
        return self

    def get_output_data_types(self, types: Any) -> Any:
        return [types[0]]

    def get_output_shapes(self, inputs: Any, shape_inputs: Any, builder: Any) -> Any:
        return [trt.DimsExprs(inputs[0])]

    def supports_format_combination(self, pos: int, in_out: Any, num_inputs: int) -> bool:
        return in_out[pos].desc.type == trt.float32

    def configure_plugin(self, inp: Any, out: Any) -> None:
        self.ranges.append([tuple(d) for d in (inp[0].min, inp[0].opt, inp[0].max, out[0].max)])

    def get_valid_tactics(self) -> list[int]:
        return [1, 2, 9]

    def get_fields_to_serialize(self) -> Any:
        size = np.int32([self.ranges[-1][2][0]])
        return trt.PluginFieldCollection([trt.PluginField("largest", size)])

    def set_tactic(self, tactic: int) -> None:
        self.tactic = tactic
        Plus.told.append(tactic)

    def enqueue(
        self, inp: Any, out: Any, inputs: Any, outputs: Any, work: int, stream: int
    ) -> None:
        if self.tactic == 9:
            raise RuntimeError("tactic nine")
        time.sleep(0.01 if self.tactic == 1 else 0)
        shape = tuple(inp[0].dims)
        view(outputs[0], DType.F32, shape)[:] = view(inputs[0], DType.F32, shape) + self.tactic

    def clone(self) -> Any:
        return Plus(self.timing_cache_id)


class PlusCreator(trt.IPluginCreatorV3One):
    seen: list[Any] = []

    def __init__(self) -> None:
        super().__init__()
        self.name, self.plugin_version, self.plugin_namespace = "TunedPlus", "1", ""
        self.field_names = trt.PluginFieldCollection([trt.PluginField("largest")])

    def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
        PlusCreator.seen.append((phase.name, int(fields[0].data[0])))
        return Plus()


@pytest.fixture(autouse=True)
def registered() -> Any:
    creator = PlusCreator()
    registry = trt.get_plugin_registry()
    assert registry.register_creator(creator)
    Plus.told.clear()
    PlusCreator.seen.clear()
    yield
    registry.deregister_creator(creator)


def tuned(identity: str = "plus", cache: Any = None) -> tuple[Plus, Net, Any]:
    plugin, net = Plus(identity), Net()
    layer = net.network.add_plugin_v3([net.input("x", X, (-1, 3))], [], plugin)
    net.output(layer.get_output(0))
    net.profile(x=((1, 3), (4, 3), (16, 3)))
    cache = net.config.create_timing_cache(b"") if cache is None else cache
    assert net.config.set_timing_cache(cache, False)
    return plugin, net, cache


def test_profiles_reach_the_plugin_and_the_fastest_tactic_is_taken() -> None:
    plugin, net, cache = tuned()
    data = net.builder.build_serialized_network(net.network, net.config)
    assert plugin.ranges[-1] == [(1, 3), (4, 3), (16, 3), (16, 3)]
    assert Plus.told == [1, 2, 9]
    warnings = [m for s, m in net.logger.lines if s == "WARNING"]
    assert any("tactic 9" in m and "tactic nine" in m for m in warnings)
    engine = lamina.load(bytes(data))
    for x in (X, X[:2]):
        close(engine.run({"x": x})["y0"], x + 2)
    assert PlusCreator.seen[-1] == ("RUNTIME", 16)
    Plus.told.clear()
    tuned(cache=cache)[1].build()  # a second build finds the times of those that run
    assert Plus.told == [9]


def test_a_plugin_without_identity_is_timed_in_every_build() -> None:
    _, net, cache = tuned("")
    net.build()
    assert Plus.told == [1, 2, 9]
    tuned("", cache)[1].build()
    assert Plus.told == [1, 2, 9] * 2


def test_no_tactic_that_works_is_an_error() -> None:
    class Failing(Plus):
        def get_valid_tactics(self) -> list[int]:
            return [9, 9]

    net = Net()
    layer = net.network.add_plugin_v3([net.input("x", X)], [], Failing())
    net.output(layer.get_output(0))
    assert "tactic nine" in net.fails()


def test_tactics_of_decorated_plugins() -> None:
    told: list[int] = []

    @trtp.register("tuning::scale")
    def desc(x: trtp.TensorDesc, factor: float, pads: np.ndarray) -> trtp.TensorDesc:
        return x.like()

    @trtp.autotune("tuning::scale")
    def tune(x: trtp.TensorDesc, factor: float, outputs: Any) -> Any:
        return [trtp.AutoTuneCombination("FP32|FP16, FP32|FP16", "LINEAR", [4, 7])]

    @trtp.impl("tuning::scale")
    def scale(x: Any, factor: float, outputs: Any, stream: int, tactic: int) -> None:
        told.append(tactic)
        time.sleep(0.01 if tactic == 4 else 0)
        np.asarray(outputs[0])[...] = np.asarray(x) * np.float32(factor)

    net = Net()
    tensor = net.input("x", X)
    layer = net.network.add_plugin(trtp.op.tuning.scale(tensor, factor=3.0, pads=[1, 2]))
    net.output(layer.get_output(0))
    engine = net.build()
    told.clear()
    close(engine.run({"x": X})["y0"], 3 * X)
    assert told == [7]


def test_the_second_generation_serializes_what_it_was_configured_for() -> None:
    class Configured(trt.IPluginV2DynamicExt):
        def __init__(self, largest: int = 0) -> None:
            super().__init__()
            self.plugin_type, self.plugin_version, self.num_outputs = "TunedV2", "1", 1
            self.largest = largest

        def get_output_dimensions(self, index: int, inputs: Any, builder: Any) -> Any:
            return inputs[0]

        def supports_format_combination(self, pos: int, in_out: Any, num_inputs: int) -> bool:
            return True

        def configure_plugin(self, inp: Any, out: Any) -> None:
            self.largest = max(self.largest, inp[0].max[0])

        def serialize(self) -> bytes:
            return bytes([self.largest])

        def enqueue(self, i: Any, o: Any, inputs: Any, outputs: Any, work: int, s: int) -> int:
            shape = tuple(i[0].dims)
            y = view(outputs[0], DType.F32, shape)
            y[:] = view(inputs[0], DType.F32, shape) + self.largest
            return 0

    class Creator(trt.IPluginCreator):
        name, plugin_version, plugin_namespace = "TunedV2", "1", ""

        def deserialize_plugin(self, name: str, data: bytes) -> Any:
            return Configured(data[0])

    creator = Creator()
    trt.get_plugin_registry().register_creator(creator)
    net = Net()
    layer = net.network.add_plugin_v2([net.input("x", X, (-1, 3))], Configured())
    net.output(layer.get_output(0))
    net.profile(x=((1, 3), (4, 3), (16, 3)))
    close(net.build().run({"x": X})["y0"], X + 16)
    trt.get_plugin_registry().deregister_creator(creator)
