"""Configurations, profiles, flags, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lamina
import lamina.tensorrt as trt
from lamina import ops
from lamina.ir import loc
from lamina.ir.graph import Graph, emit
from lamina.ir.types import DType, TensorType
from tests.tensorrt.running import Net, close, random


@pytest.fixture
def _legacy() -> Iterator[None]:
    trt.use("8.6")
    yield
    trt.use("10")


def relu(net: Net, x: Any) -> Any:
    return net.network.add_activation(x, trt.ActivationType.RELU).get_output(0)


def dynamic(*shape: int) -> Net:
    net = Net()
    net.output(relu(net, net.network.add_input("x", trt.float32, shape)))
    return net


def metadata(net: Net) -> Any:
    return json.loads(dict(net.build().plan.notes)["tensorrt"])


def test_the_plan_is_that_of_lamina_build() -> None:
    net, w = Net(), random(4, 3, 3, 3)
    layer = net.network.add_convolution_nd(net.input("x", random(1, 3, 8, 8)), 4, (3, 3), w)
    layer.name = "conv"
    net.output(layer.get_output(0))
    ours = net.build().plan
    graph = Graph()
    x = graph.input("x", TensorType(DType.F32, (1, 3, 8, 8)))
    kernel = emit(ops.Const.of(w), (), loc=loc.Loc("conv"))
    op = ops.Convolution(strides=(1, 1), dilations=(1, 1), pads_begin=(0, 0), pads_end=(0, 0))
    graph.output(emit(op, (x, kernel), loc=loc.Loc("conv")), "y0")
    theirs = lamina.build(graph, optimization_level=0).plan
    tactics = [[s.tactic for s in p.sections[0].program.steps] for p in (ours, theirs)]
    assert tactics[0] == tactics[1]
    assert [len(p.sections[0].blobs) for p in (ours, theirs)] == [1, 1]


def test_what_is_not_given_is_an_error_and_no_crash() -> None:
    net = Net()
    x = net.input("x", random(2, 3))
    shuffle = net.network.add_shuffle(x)
    shuffle.first_transpose = (0, 0)
    net.output(shuffle.get_output(0))
    assert "is not an order of the axes" in net.fails()
    net = Net()
    layer = net.network.add_matrix_multiply(
        net.input("x", random(2, 3)), trt.MatrixOperation.NONE,
        net.input("y", random(3, 2)), trt.MatrixOperation.NONE,
    )  # fmt: skip
    layer._inputs[1] = None
    layer.name = "product"
    net.output(layer.get_output(0))
    message = net.fails()
    assert "input 1 is not given" in message and "in layer 'product'" in message


def test_a_cycle_is_named() -> None:
    net = Net()
    x = net.input("x", random(2))
    first = net.network.add_elementwise(x, x, trt.ElementWiseOperation.SUM)
    second = net.network.add_elementwise(first.get_output(0), x, trt.ElementWiseOperation.SUM)
    second.name = "second"
    first.set_input(1, second.get_output(0))
    net.output(second.get_output(0))
    assert "depends on its own result" in net.fails()


def test_densely_connected_layers() -> None:
    net, x = Net(), random(1, 2)
    tensors = [net.input("x", x)]
    for _ in range(40):
        joined = net.network.add_concatenation(tensors)
        joined.axis = 0
        total = net.network.add_reduce(joined.get_output(0), trt.ReduceOperation.AVG, 1, True)
        tensors.append(total.get_output(0))
    net.output(tensors[-1])
    close(net.run(x=x), x, 1e-5)


def test_a_network_without_outputs_is_refused() -> None:
    net = Net()
    relu(net, net.input("x", random(2)))
    assert "the network has no output" in net.fails()


def test_a_dynamic_input_needs_a_profile_with_its_shapes() -> None:
    net = dynamic(-1, 3)
    assert "input 'x' has the dynamic shape (-1, 3)" in net.fails()
    net.profile(y=((1,), (2,), (3,)))
    assert "optimization profile 0 gives no shapes" in net.fails()


def test_a_profile_without_shapes_is_refused() -> None:
    net = dynamic(-1, 3)
    empty = net.builder.create_optimization_profile()
    assert not empty and net.config.add_optimization_profile(empty) == -1
    assert "the optimization profile is empty" in net.logger.errors[-1]
    assert net.config.num_optimization_profiles == 0
    empty.set_shape("x", (1, 3), (2, 3), (4, 3))
    assert net.config.add_optimization_profile(empty) == 0


def test_a_profile_must_agree_with_the_network() -> None:
    net = dynamic(-1, 3)
    net.profile(x=((1, 3), (2, 4), (4, 4)))
    assert "optimization profile 0 says" in net.fails()
    with pytest.raises(RuntimeError, match="min <= opt <= max"):
        net.profile(x=((4, 3), (2, 3), (1, 3)))


def test_two_profiles_are_one_plan() -> None:
    net = dynamic(-1, 3)
    first = net.profile(x=((1, 3), (2, 3), (4, 3)))
    net.profile(x=((8, 3), (8, 3), (16, 3)))
    assert bool(first) and first.get_shape("x") == [(1, 3), (2, 3), (4, 3)]
    assert first.get_shape("y") == [] and net.config.num_optimization_profiles == 2
    engine = net.build()
    assert engine.plan.ranges == (("x_dim0", 1, 2, 16),)
    close(engine(random(16, 3)), np.maximum(random(16, 3), 0))
    with pytest.raises(lamina.InputError, match="outside the profile"):
        engine(random(17, 3))
    assert len(metadata(net)["profiles"]) == 2


def test_equal_dimension_names_are_one_size() -> None:
    net = Net()
    x = net.network.add_input("x", trt.float32, (-1, 3))
    y = net.network.add_input("y", trt.float32, (-1, 3))
    for tensor in (x, y):
        tensor.set_dimension_name(0, "batch")
    assert x.get_dimension_name(0) == "batch" and x.get_dimension_name(1) is None
    total = net.network.add_elementwise(x, y, trt.ElementWiseOperation.SUM).get_output(0)
    net.output(total)
    net.profile(x=((1, 3), (2, 3), (4, 3)), y=((1, 3), (2, 3), (4, 3)))
    assert [r[0] for r in net.build().plan.ranges] == ["batch"]


def test_shapes_follow_properties_that_change() -> None:
    net = Net()
    layer = net.network.add_convolution_nd(
        net.input("x", random(1, 1, 9, 9)), 1, (3, 3), random(1, 1, 3, 3)
    )
    after = relu(net, layer.get_output(0))
    assert after.shape == (1, 1, 7, 7)
    layer.stride_nd = (2, 2)
    assert after.shape == (1, 1, 4, 4)
    net.network.get_input(0).shape = (1, 1, 5, 5)
    assert after.shape == (1, 1, 2, 2)


def test_inputs_outputs_and_layers_are_found_again() -> None:
    net = Net()
    x = net.input("x", random(2))
    y = relu(net, x)
    net.output(y)
    network = net.network
    assert network.get_input(0) is x and network.get_output(0) is y
    assert network.get_layer(0).get_input(0) is x and network.get_layer(1) is None
    assert (len(network), network.num_inputs, network.num_outputs) == (1, 1, 1)
    (layer,) = network
    assert layer.type == trt.LayerType.ACTIVATION and type(layer) is trt.ILayer
    layer.__class__ = trt.IActivationLayer
    assert layer.type == trt.ActivationType.RELU
    assert x.is_network_input and y.is_network_output and not x.is_network_output
    assert network.add_input("x", trt.float32, (1,)) is None
    network.unmark_output(y)
    assert network.num_outputs == 0


def test_flags_pools_and_other_options() -> None:
    config = Net().builder.create_builder_config()
    assert config.get_flag(trt.BuilderFlag.TF32) and config.flags == 1 << int(trt.BuilderFlag.TF32)
    config.set_flag(trt.BuilderFlag.FP16)
    config.clear_flag(trt.BuilderFlag.TF32)
    assert config.flags == 1
    config.flags = 1 << int(trt.BuilderFlag.REFIT)
    assert config.get_flag(trt.BuilderFlag.REFIT) and not config.get_flag(trt.BuilderFlag.FP16)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 20)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 20
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    assert config.profiling_verbosity.name == "DETAILED"
    config.set_tactic_sources(1)
    assert config.get_tactic_sources() == 1
    config.reset()
    assert config.flags == 1 << int(trt.BuilderFlag.TF32)
    assert config.get_tactic_sources() == 0b11111


def test_half_precision_and_converted_outputs() -> None:
    net, x = Net(), random(2, 8)
    y = net.network.add_matrix_multiply(
        net.input("x", x), trt.MatrixOperation.NONE,
        net.constant(random(8, 4, seed=1)), trt.MatrixOperation.NONE,
    )  # fmt: skip
    net.output(y.get_output(0))
    y.get_output(0).dtype = trt.float16
    net.config.set_flag(trt.BuilderFlag.FP16)
    got = net.run(x=x)
    assert got.dtype == np.float16
    close(got, (x @ random(8, 4, seed=1)).astype(np.float16), 2e-2)


def test_strongly_typed_networks_refuse_precision_flags() -> None:
    net = Net(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    net.output(relu(net, net.input("x", random(2).astype(np.float16))))
    assert net.network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert net.run(x=random(2).astype(np.float16)).dtype == np.float16
    net.config.set_flag(trt.BuilderFlag.FP16)
    assert "strongly typed, but the flags FP16 are set" in net.fails()


def test_version_11_is_strongly_typed() -> None:
    trt.use("11")
    try:
        net, x = Net(), random(2, 8).astype(np.float16)
        assert net.network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        tensor = net.input("x", x)
        scale = net.constant(np.float16(0.05))
        q = net.network.add_quantize(tensor, scale, trt.int8)
        back = net.network.add_dequantize(q.get_output(0), scale, trt.float16)
        fill = net.network.add_fill((2, 8), trt.FillOperation.LINSPACE)
        fill.alpha = fill.beta = 0.0
        half = net.network.add_cast(fill.get_output(0), trt.float16).get_output(0)
        total = net.network.add_elementwise(
            back.get_output(0), half, trt.ElementWiseOperation.SUM
        ).get_output(0)
        net.output(total)
        assert total.dtype == trt.float16
        close(net.run(x=x), x, 0.05)
        mixed = net.network.add_elementwise(
            tensor, fill.get_output(0), trt.ElementWiseOperation.SUM
        )
        net.output(mixed.get_output(0))
        assert "f16" in net.fails() and "f32" in net.fails()
    finally:
        trt.use("10")


def test_dynamic_ranges_quantize() -> None:
    net, x, w = Net(), random(1, 8, 6, 6), random(4, 8, 3, 3, seed=1)
    tensor = net.input("x", x)
    layer = net.network.add_convolution_nd(tensor, 4, (3, 3), w)
    net.output(layer.get_output(0))
    exact = net.run(x=x)
    net.config.set_flag(trt.BuilderFlag.INT8)
    tensor.dynamic_range = (-4, 4)
    assert tensor.dynamic_range == (-4, 4)
    rounded = net.run(x=x)
    difference = np.abs(rounded - exact).max()
    assert 0 < difference < 0.2 * np.abs(exact).max()
    layer.precision = trt.float32
    close(net.run(x=x), exact)


def test_weights_have_names_for_refits() -> None:
    net, w = Net(), random(4, 3, 1, 1)
    layer = net.network.add_convolution_nd(
        net.input("x", random(1, 3, 2, 2)), 4, (1, 1), w, random(4)
    )
    layer.name = "conv"
    net.output(layer.get_output(0))
    assert net.network.set_weights_name(w, "kernel of conv")
    assert not net.network.set_weights_name(w, "another name")
    net.config.set_flag(trt.BuilderFlag.REFIT)
    found = metadata(net)
    assert found["refittable"]
    assert {(v["name"], v["layer"], v["role"]) for v in found["weights"]} == {
        ("kernel of conv", "conv", "KERNEL"),
        ("conv BIAS", "conv", "BIAS"),
    }


def test_debug_tensors_are_outputs_of_the_plan_alone() -> None:
    net = Net()
    middle = relu(net, net.input("x", random(2)))
    middle.name = "middle"
    net.output(relu(net, middle))
    net.network.mark_debug(middle)
    assert net.network.is_debug_tensor(middle)
    assert [p.name for p in net.build().outputs] == ["y0", "middle"]
    found = metadata(net)
    assert found["debug_tensors"] == ["middle"]
    assert [t["name"] for t in found["tensors"]] == ["x", "y0"]


def test_a_timing_cache_is_filled_saved_and_combined() -> None:
    net = Net()
    net.config.builder_optimization_level = 3
    cache = net.config.create_timing_cache(b"")
    assert net.config.set_timing_cache(cache, False) and net.config.get_timing_cache() is cache
    w = random(8, 8, 3, 3)
    layer = net.network.add_convolution_nd(net.input("x", random(1, 8, 9, 9)), 8, (3, 3), w)
    net.output(layer.get_output(0))
    net.build()
    keys = cache.queryKeys()
    assert keys and cache.query(keys[0]).timingMSec > 0
    again = net.config.create_timing_cache(cache.serialize())
    assert again.queryKeys() == keys
    assert trt.TimingCacheKey.parse(str(keys[0])) == keys[0]
    value = again.query(keys[0])
    value.timingMSec = 1e-6
    assert again.update(keys[0], value) and again.query(keys[0]).timingMSec == 1e-6
    assert cache.combine(again, False) and cache.query(keys[0]).timingMSec == 1e-6
    assert cache.reset() and cache.queryKeys() == []
    assert net.config.create_timing_cache(b"rubbish") is None


class Monitor(trt.IProgressMonitor):
    """Keeps the calls; cancels at a step of the compile stage when told so."""

    def __init__(self, cancel: bool = False) -> None:
        self.open: list[str] = []
        self.seen: list[str] = []
        self.cancel = cancel

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        assert num_steps > 0 and (parent_phase is None or parent_phase in self.open)
        self.open.append(phase_name)
        self.seen.append(phase_name)

    def step_complete(self, phase_name: str, step: int) -> bool:
        assert phase_name in self.open
        return not self.cancel

    def phase_finish(self, phase_name: str) -> None:
        self.open.remove(phase_name)


def test_progress_is_shown_and_can_be_cancelled() -> None:
    net = dynamic(4, 3)
    monitor = Monitor()
    net.config.progress_monitor = monitor
    net.build()
    assert len(monitor.seen) >= 3 and monitor.open == []
    net.config.progress_monitor = Monitor(cancel=True)
    assert "cancelled" in net.fails()
    assert net.config.progress_monitor.open == []


def test_errors_reach_the_recorder() -> None:
    class Recorder(trt.IErrorRecorder):
        def __init__(self) -> None:
            self.found: list[Any] = []

        def report_error(self, code: Any, desc: str) -> bool:
            self.found.append((code.name, desc))
            return True

    net = dynamic(-1, 3)
    net.builder.error_recorder = Recorder()
    net.fails()
    ((code, text),) = net.builder.error_recorder.found
    assert code == "INVALID_CONFIG" and "dynamic shape" in text


@pytest.mark.usefixtures("_legacy")
def test_an_implicit_batch() -> None:
    net, w = Net(), random(4, 3, 3, 3)
    tensor = net.network.add_input("x", trt.float32, (3, 8, 8))
    assert net.network.has_implicit_batch_dimension
    conv = net.network.add_convolution(tensor, 4, (3, 3), w, random(4))
    conv.stride = (2, 2)
    assert conv.get_output(0).shape == (4, 3, 3)
    scale = net.network.add_scale(
        conv.get_output(0), trt.ScaleMode.CHANNEL, scale=random(4, seed=2)
    )
    full = net.network.add_fully_connected(scale.get_output(0), 5, random(5, 36, seed=3))
    assert full.get_output(0).shape == (5, 1, 1)
    softmax = net.network.add_softmax(full.get_output(0))
    flat = net.network.add_shuffle(softmax.get_output(0))
    flat.reshape_dims = (-1,)
    half = net.network.add_reduce(flat.get_output(0), trt.ReduceOperation.SUM, 1, True)
    net.output(flat.get_output(0), half.get_output(0))
    assert flat.get_output(0).shape == (5,) and half.get_output(0).shape == (1,)
    net.builder.max_batch_size = 4
    engine = net.build()
    for batch in (1, 4):
        got = engine.run({"x": random(batch, 3, 8, 8)})
        assert got["y0"].shape == (batch, 5)
        close(got["y1"], np.ones((batch, 1), np.float32))
    assert metadata(net)["max_batch_size"] == 4
    assert [t["shape"] for t in metadata(net)["tensors"]] == [[3, 8, 8], [5], [1]]


@pytest.mark.usefixtures("_legacy")
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "TANH"])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_layers(kind: str, both: bool) -> None:
    net, x = Net(1), random(2, 5, 3)
    op = trt.RNNOperation.named(kind)
    layer = net.network.add_rnn_v2(net.input("x", x), 2, 4, 5, op)
    passes = 2 if both else 1
    if both:
        layer.direction = trt.RNNDirection.BIDIRECTION
    gates = {"LSTM": "INPUT OUTPUT FORGET CELL", "GRU": "UPDATE RESET HIDDEN", "TANH": "INPUT"}
    weights: dict[Any, Any] = {}
    for number in range(2 * passes):
        width = 3 if number < passes else 4 * passes
        for gate in gates[kind].split():
            for is_w in (True, False):
                seed = len(weights)
                w = random(4, width if is_w else 4, seed=seed) * 0.5
                b = random(4, seed=seed + 100) * 0.5
                weights[number, gate, is_w] = (w, b)
                layer.set_weights_for_gate(number, trt.RNNGateType.named(gate), is_w, w)
                layer.set_bias_for_gate(number, trt.RNNGateType.named(gate), is_w, b)
    outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
    assert len(outputs) == (3 if kind == "LSTM" else 2)
    net.output(*outputs)
    got = net.run(x=x)
    y, hidden = x, []
    for number in range(2):
        parts = []
        for p in range(passes):
            turned = y[:, ::-1] if p else y
            rows, h = stepped(kind, turned, weights, number * passes + p)
            parts.append(rows[:, ::-1] if p else rows)
            hidden.append(h)
        y = np.concatenate(parts, axis=2)
    close(got[0], y, 1e-4)
    close(got[1], np.stack(hidden, axis=1), 1e-4)


def stepped(kind: str, x: Any, weights: Any, number: int) -> tuple[Any, Any]:
    """Run one direction of one layer in float64."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    h = c = np.zeros((x.shape[0], 4))
    rows = []

    def part(gate: str, v: Any, is_w: bool) -> Any:
        w, b = weights[number, gate, is_w]
        return v @ w.T + b

    for t in range(x.shape[1]):
        now = x[:, t]
        both = lambda gate: part(gate, now, True) + part(gate, h, False)  # noqa: E731
        if kind == "LSTM":
            i, o, f = (sigmoid(both(g)) for g in ("INPUT", "OUTPUT", "FORGET"))
            c = f * c + i * np.tanh(both("CELL"))
            h = o * np.tanh(c)
        elif kind == "GRU":
            z, r = sigmoid(both("UPDATE")), sigmoid(both("RESET"))
            new = np.tanh(part("HIDDEN", now, True) + r * part("HIDDEN", h, False))
            h = (1 - z) * new + z * h
        else:
            h = np.tanh(both("INPUT"))
        rows.append(h)
    return np.stack(rows, axis=1), h


@pytest.mark.usefixtures("_legacy")
def test_old_parsers_say_what_to_do(tmp_path: Path) -> None:
    net = Net()
    parser = trt.CaffeParser()
    assert parser.parse("deploy", "model", net.network, trt.float32) is None
    assert "convert the model to ONNX" in net.logger.errors[-1]
    assert not trt.UffParser().parse(str(tmp_path), net.network)
    assert "UFF models cannot be imported yet" in net.logger.errors[-1]
