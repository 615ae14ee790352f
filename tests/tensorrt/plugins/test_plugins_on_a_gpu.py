"""Plugins in engines for a GPU: kernels compiled ahead of time, and callbacks with addresses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import triton
import triton.language as tl

import lamina
import lamina.tensorrt as trt
import lamina.tensorrt.plugin as trtp
from lamina.backends.cuda.launches import read_step
from lamina.backends.cuda.request import ASSEMBLY
from lamina.backends.cuda.triton_compile import compile_request
from lamina.ir.types import DType, TensorType
from lamina.plan.plan import StepKind
from lamina.runtime.engine import find_driver
from lamina.tensorrt.engine.memory import view
from lamina.tensorrt.plugin_api import device_timing
from lamina.tensorrt.plugin_api.device_timing import DeviceTimer
from lamina.tensorrt.plugin_api.quick_kernels import described_launch
from tests.tensorrt.plugins.simulated import graph_of, loaded, plan_for_gpu
from tests.tensorrt.plugins.test_plugins import Nonzeros, NonzerosCreator, Scale, ScaleCreator
from tests.tensorrt.running import Net, close, random

X = random(4, 3)


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: Any) -> None:
    monkeypatch.setattr("lamina.tensorrt.platform.device", lambda: "cuda")


@pytest.fixture(scope="module", autouse=True)
def creators() -> Any:
    made = [ScaleCreator(), NonzerosCreator()]
    registry = trt.get_plugin_registry()
    for creator in made:
        assert registry.register_creator(creator)
    yield
    for creator in made:
        registry.deregister_creator(creator)


@triton.jit
def roll_kernel(x, rows, columns, distance, y, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < columns
    value = tl.load(x + row * columns + (i + columns - distance) % columns, mask=inside)
    tl.store(y + row * columns + i, value, mask=inside)


@trtp.register("gpu::roll")
def roll_desc(x: trtp.TensorDesc, distance: int) -> trtp.TensorDesc:
    return x.like()


@trtp.aot_impl("gpu::roll")
def roll_aot(x: trtp.TensorDesc, distance: int, outputs: Any, tactic: int) -> Any:
    kind = {trt.float32: "*fp32", trt.float16: "*fp16"}[x.dtype]
    block = 16 << tactic
    signature = {"x": kind, "rows": "i32", "columns": "i32", "distance": "i32", "y": kind}
    source = triton.compiler.ASTSource(
        fn=roll_kernel, signature=signature | {"BLOCK": "constexpr"}, constexprs={"BLOCK": block}
    )
    kernel = triton.compile(source, options={"num_warps": 2})
    params = trtp.KernelLaunchParams()
    params.grid_x = x.shape_expr[0]
    params.block_x = kernel.metadata.num_warps * 32
    params.shared_mem = kernel.metadata.shared
    sizes = [trtp.SymInt32(s) for s in (*x.shape_expr, distance)]
    return kernel.metadata.name, kernel.asm["ptx"], params, trtp.SymIntExprs.from_tuple(sizes)


TWINS = {"roll_kernel": (roll_kernel, {"BLOCK": 16})}


def roll_net(x: Any, **options: Any) -> Net:
    net = Net()
    tensor = net.input("x", x, (-1, 3))
    layer = net.network.add_plugin(trtp.op.gpu.roll(tensor, distance=1), **options)
    net.output(layer.get_output(0))
    return net


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_kernel_of_a_decorated_plugin(dtype: Any) -> None:
    plan, _ = plan_for_gpu(roll_net(X.astype(dtype)))
    (step,) = plan.sections[0].program.steps
    assert step.kind is StepKind.KERNEL and step.tactic.startswith("plugin gpu::roll tactic 0 #")
    runs = loaded(plan, TWINS)
    for rows in (4, 2):
        x = X[:rows].astype(dtype)
        assert (runs.run({"x": x})["y0"] == np.roll(x, 1, axis=1)).all()


@pytest.mark.parametrize("arch", [75, 80, 90, 100])
def test_unmodified_functions_compile_for_the_gpu_that_is_built_for(arch: int) -> None:
    _, (request,) = plan_for_gpu(roll_net(X), arch=arch)
    assert f".target sm_{arch}" in request.source
    assert compile_request(request, arch).cubin[:4] == b"\x7fELF"
    if arch > 75:
        with pytest.raises(lamina.BuildError, match="not for sm_75"):
            compile_request(request, 75)


def test_machine_code_and_foreign_text() -> None:
    _, (request,) = plan_for_gpu(roll_net(X))
    code = compile_request(request, 90)
    launch = described_launch(
        b"roll_kernel", code.cubin, trtp.KernelLaunchParams(block_x=64, shared_mem=8), None, 1, 1
    )
    again = replace(request, source=f"{ASSEMBLY}8\n{launch.code.text}")  # type: ignore[union-attr]
    made = compile_request(again, 90)
    assert (made.cubin, made.shared_bytes, made.function) == (code.cubin, 8, "roll_kernel")
    newer = (
        ".version 99.0\n.target sm_80\n.address_size 64\n.visible .entry roll_kernel() { ret; }\n"
    )
    made = compile_request(replace(request, source=f"{ASSEMBLY}0\n{newer}"), 90)
    assert made.cubin == newer.encode() + b"\0" and made.driver_version == 0
    for text, reason in (
        ("nothing", "no PTX"),
        (".target sm_80\n.entry other()", "no kernel roll_kernel"),
        (".target sm_80\n.entry roll_kernel() { rubbish }", "cannot be assembled"),
    ):
        with pytest.raises(lamina.BuildError, match=reason):
            compile_request(replace(request, source=f"{ASSEMBLY}0\n{text}"), 90)


def test_blocks_of_several_axes_reach_the_launch() -> None:
    @trtp.register("gpu::tiles")
    def desc(x: trtp.TensorDesc) -> trtp.TensorDesc:
        return x.like()

    @trtp.aot_impl("gpu::tiles")
    def tiles(x: trtp.TensorDesc, outputs: Any, tactic: int) -> Any:
        text = ".target sm_80\n.entry tiles()"
        params = trtp.KernelLaunchParams(grid_x=2, grid_y=x.shape_expr[0], block_x=8, block_y=5)
        return "tiles", text, params, None

    net = Net()
    layer = net.network.add_plugin(trtp.op.gpu.tiles(net.input("x", X, (-1, 3))))
    net.output(layer.get_output(0))
    plan, _ = plan_for_gpu(net)
    (launch,) = read_step(plan.sections[0].program.steps[0]).launches
    assert (launch.threads, launch.more_threads) == (8, (5, 1))
    assert launch.sizes({"x_dim0": 4}) == (2, 4, 1)


def test_tactics_of_autotune_are_candidates_and_types_are_checked() -> None:
    @trtp.autotune("gpu::roll")
    def tune(x: trtp.TensorDesc, outputs: Any) -> Any:
        first = trtp.AutoTuneCombination("FP32|FP16, FP32|FP16", "LINEAR", [1, 2])
        second = trtp.AutoTuneCombination()
        second.pos([0, 1], "FP32")
        second.tactics([3])
        return [first, second]

    try:
        plugin = trtp.quick.PLUGINS["gpu::roll"]
        given = {"distance": 1}
        f32, f16, i32 = (TensorType(t, (4, 3)) for t in (DType.F32, DType.F16, DType.I32))
        assert plugin.tactics([f32], given, [f32]) == [1, 2, 3]
        assert plugin.tactics([f16], given, [f16]) == [1, 2]
        with pytest.raises(lamina.GraphError, match="types INT32, INT32"):
            plugin.tactics([i32], given, [i32])
        with pytest.raises(lamina.GraphError, match="types FLOAT, HALF"):
            plugin.tactics([f32], given, [f16])
        (op,) = (n.op for n in graph_of(roll_net(X)).nodes())
        variants = lamina.ops.plugin_kernels.KERNELS[op.kind](
            op, [f32], lamina.ops.plugin_kernels.Device(90)
        )
        assert [v.name.split(" #")[0] for v in variants] == [
            f"gpu::roll tactic {t}" for t in (1, 2, 3)
        ]
    finally:
        plugin.autotune = None


class Rolled(trt.IPluginV3, trt.IPluginV3QuickCore, trt.IPluginV3QuickAOTBuild):
    """The kernel of ``gpu::roll`` in the form of a class."""

    def __init__(self, distance: int) -> None:
        trt.IPluginV3.__init__(self)
        trt.IPluginV3QuickCore.__init__(self)
        trt.IPluginV3QuickAOTBuild.__init__(self)
        self.plugin_name, self.plugin_namespace, self.plugin_version = "Rolled", "gpu", "1"
        self.distance = distance
        self.told: list[int] = []

    def get_capability_interface(self, type: Any) -> Any:
        return self

    def get_output_data_types(self, types: Any, ranks: Any) -> Any:
        return [types[0]]

    def get_output_shapes(self, inputs: Any, shape_inputs: Any, builder: Any) -> Any:
        return [trt.DimsExprs(inputs[0])]

    def get_fields_to_serialize(self) -> Any:
        field = trt.PluginField("distance", np.int32([self.distance]))
        return trt.PluginFieldCollection([field])

    def get_valid_tactics(self) -> list[int]:
        return [1, 2]

    def set_tactic(self, tactic: int) -> None:
        self.told.append(tactic)

    def get_launch_params(
        self, inputs: Any, in_out: Any, count: int, params: Any, extra: Any, builder: Any
    ) -> None:
        assert (count, len(in_out)) == (1, 2)
        params.grid_x = inputs[0][0]
        params.block_x = 64
        extra.nbSymExprs = 3
        numbers = [*inputs[0], builder.constant(self.distance)]
        for i, number in enumerate(numbers):
            extra[i] = trt.ISymExpr()
            extra[i].expr = number

    def get_kernel(self, inputs: Any, outputs: Any) -> Any:
        name, text, _, _ = roll_aot(trtp.TensorDesc(inputs[0].type, (4, 3)), 1, (), 0)
        return name, text


def test_kernels_of_a_class() -> None:
    net, plugin = Net(), Rolled(2)
    layer = net.network.add_plugin_v3([net.input("x", X, (-1, 3))], [], plugin)
    net.output(layer.get_output(0))
    plan, _ = plan_for_gpu(net)
    (step,) = plan.sections[0].program.steps
    assert step.tactic.startswith("plugin gpu::Rolled::1 tactic 1") and plugin.told == [1, 2]
    runs = loaded(plan, TWINS)
    assert (runs.run({"x": X})["y0"] == np.roll(X, 2, axis=1)).all()


def test_kernels_of_a_class_on_a_cpu(monkeypatch: Any) -> None:
    monkeypatch.setattr("lamina.tensorrt.platform.device", lambda: "cpu")
    net = Net()
    layer = net.network.add_plugin_v3([net.input("x", X)], [], Rolled(2))
    net.output(layer.get_output(0))
    assert "has kernels for a GPU only" in net.fails()


def test_wrong_ahead_of_time_implementations() -> None:
    @trtp.register("gpu::wrong")
    def desc(x: trtp.TensorDesc) -> trtp.TensorDesc:
        return x.like()

    net = Net()
    tensor = net.input("x", X)
    layer = net.network.add_plugin(trtp.op.gpu.wrong(tensor))
    net.output(layer.get_output(0))
    with pytest.raises(lamina.GraphError, match="no implementation in Python"):
        graph_of(net)

    def square(x: Any, outputs: Any, tactic: int) -> Any:
        return "k", ".target sm_80", trtp.KernelLaunchParams(block_x=64, block_y=32), None

    for made, reason in (
        (lambda x, outputs, tactic: 3, "must return the name of a kernel"),
        (lambda x, outputs, tactic: ("k", "ptx", 3, None), "must return KernelLaunchParams"),
        (square, "64 x 32 x 1 threads"),
        (lambda x, outputs, tactic: 1 // 0, "ZeroDivisionError"),
    ):
        trtp.aot_impl("gpu::wrong")(made)
        with pytest.raises(lamina.GraphError, match=reason):
            plan_for_gpu(net)


def test_callbacks_get_addresses_and_the_stream() -> None:
    seen: list[int] = []

    @trtp.register("gpu::twice")
    def desc(x: trtp.TensorDesc) -> trtp.TensorDesc:
        return x.aliased()

    @trtp.impl("gpu::twice")
    def twice(x: trtp.Tensor, outputs: Any, stream: int) -> None:
        assert not hasattr(x, "__array_interface__")
        interface = outputs[0].__cuda_array_interface__
        assert interface["data"] == (x.data_ptr, False) and interface["stream"] == stream
        view(outputs[0].data_ptr, DType.F32, tuple(x.shape))[...] *= 2
        seen.append(stream)

    net = Net()
    x = net.input("x", X)
    double = net.network.add_plugin(trtp.op.gpu.twice(x)).get_output(0)
    sum = net.network.add_elementwise(x, double, trt.ElementWiseOperation.SUM).get_output(0)
    net.output(sum)
    plan, _ = plan_for_gpu(net)
    kinds = [s.kind for s in plan.sections[0].program.steps]
    assert kinds == [StepKind.CALLBACK, StepKind.KERNEL] and plan.fallbacks == ()
    runs = loaded(plan)
    kept = X.copy()
    for _ in range(3):
        close(runs.run({"x": X})["y0"], 3 * kept)
    assert (X == kept).all() and len(seen) == 3 and seen[0] > 1
    assert len(runs.profile({"x": X})) == 2


def test_plugins_of_both_generations_as_callbacks() -> None:
    net = Net()
    x = net.input("x", X, (-1, 3))
    scaled = net.network.add_plugin_v2([x], Scale(2, 3)).get_output(0)
    net.output(scaled)
    runs = loaded(plan_for_gpu(net)[0])
    for rows in (4, 2):
        close(runs.run({"x": X[:rows]})["y0"], np.concatenate([2 * X[:rows]] * 3))
    net = Net()
    flat = X.reshape(-1)
    x = net.input("x", flat, (-1,))
    layer = net.network.add_plugin_v3([x], [], Nonzeros(0.0))
    places = net.network.add_unary(
        net.network.add_cast(layer.get_output(0), trt.float32).get_output(0),
        trt.UnaryOperation.NEG,
    )
    net.output(places.get_output(0), layer.get_output(1))
    runs = loaded(plan_for_gpu(net)[0])
    for x in (flat, random(31, seed=4), -np.abs(flat)):
        got = runs.run({"x": x})
        assert got["y0"].tolist() == (-np.flatnonzero(x > 0)).tolist()
        assert int(got["y1"]) == (x > 0).sum()


def test_a_callback_that_raises_leaves_the_engine_usable() -> None:
    @trtp.register("gpu::picky")
    def desc(x: trtp.TensorDesc) -> trtp.TensorDesc:
        return x.like()

    @trtp.impl("gpu::picky")
    def picky(x: trtp.Tensor, outputs: Any, stream: int) -> None:
        source = view(x.data_ptr, DType.F32, tuple(x.shape))
        if (source < 0).any():
            raise ValueError("negative numbers")
        view(outputs[0].data_ptr, DType.F32, tuple(x.shape))[...] = source + 1

    net = Net()
    layer = net.network.add_plugin(trtp.op.gpu.picky(net.input("x", X)))
    net.output(layer.get_output(0))
    runs = loaded(plan_for_gpu(net)[0])
    good = np.abs(X)
    close(runs.run({"x": good})["y0"], good + 1)
    with pytest.raises(lamina.ExecutionError, match="ValueError: negative numbers") as caught:
        runs.run({"x": -good})
    assert "in picky" in str(caught.value)
    close(runs.run({"x": good})["y0"], good + 1)


def test_timing_on_a_device(monkeypatch: Any) -> None:
    driver = find_driver("cuda:simulated", 0)
    monkeypatch.setattr(device_timing, "find_driver", lambda *_: driver)
    calls: list[int] = []

    class Computation:
        def run_on_device(self, operands: Any, results: Any, types: Any, work: Any) -> Any:
            scratch = work.tensor(TensorType(DType.F32, (2 + len(calls),)))
            work.copy(results[0], operands[0])
            assert (work.read(operands[0]) == X).all()
            calls.append(scratch.pointer)
            return results

    before = driver.device.used_bytes
    with DeviceTimer([X]) as timer:
        assert timer.microseconds(Computation(), [TensorType(DType.F32, (4, 3))], 1, 3) >= 0
    assert len(calls) == 4 and driver.device.used_bytes == before
