"""Programs of their own for profiles that lie far apart."""

from __future__ import annotations

from typing import Any

import numpy as np

import lamina
import lamina.tensorrt as trt
from lamina.plan.plan import PROFILE
from tests.tensorrt.running import Net, close, random

W = random(16, 8)


def network(*ranges: Any) -> Net:
    net = Net()
    net.config.set_flag(trt.BuilderFlag.REFIT)
    x = net.network.add_input("x", trt.float32, (-1, 16))
    product = net.network.add_matrix_multiply(
        x, trt.MatrixOperation.NONE, net.constant(W), trt.MatrixOperation.NONE
    )
    product.name = "product"
    relu = net.network.add_activation(product.get_output(0), trt.ActivationType.RELU)
    net.output(relu.get_output(0))
    for low, opt, high in ranges:
        net.profile(x=((low, 16), (opt, 16), (high, 16)))
    return net


def numbers(engine: lamina.Engine) -> list[str | None]:
    return [dict(s.target).get(PROFILE) for s in engine.plan.sections]


def test_profiles_that_are_near_share_a_program() -> None:
    assert numbers(network((1, 2, 4), (4, 6, 8)).build()) == [None]
    assert numbers(network((1, 1, 4), (4, 64, 64), (32, 60, 64)).build()) == [None, "1"]
    assert numbers(network((1, 1, 4), (4, 64, 64), (500, 999, 999)).build()) == [None, "1", "2"]


def engine_of(net: Net) -> Any:
    data = net.builder.build_serialized_network(net.network, net.config)
    assert data is not None, "\n".join(net.logger.errors)
    return trt.Runtime(net.logger).deserialize_cuda_engine(data)


def run(context: Any, x: Any) -> Any:
    y = np.zeros((len(x), 8), np.float32)
    assert context.set_input_shape("x", x.shape)
    context.set_tensor_address("x", x.ctypes.data)
    context.set_tensor_address("y0", y.ctypes.data)
    assert context.execute_async_v3(0)
    return y


def test_a_context_runs_the_program_of_its_profile() -> None:
    engine = engine_of(network((1, 1, 4), (64, 64, 64)))
    inner = engine._engine
    assert inner.section_of(1) is not inner.section_of(0) is inner.section
    static = inner.section_of(1).program.inputs[0].type
    assert static.is_static  # the profile fixes its size, and kernels know it
    contexts = [engine.create_execution_context() for _ in range(2)]
    assert contexts[1].set_optimization_profile_async(1, 0)
    for _ in range(2):
        for context, rows in zip(contexts, (3, 64), strict=True):
            x = random(rows, 16)
            close(run(context, x), np.maximum(x @ W, 0), 1e-4)
    assert not contexts[1].set_input_shape("x", (65, 16))
    assert not contexts[1].set_input_shape("x", (3, 16))
    assert contexts[1].set_optimization_profile_async(0, 0)
    close(run(contexts[1], random(2, 16)), np.maximum(random(2, 16) @ W, 0), 1e-4)


def test_refits_reach_every_program() -> None:
    net = network((1, 1, 4), (64, 64, 64))
    engine = engine_of(net)
    contexts = [engine.create_execution_context() for _ in range(2)]
    assert contexts[1].set_optimization_profile_async(1, 0)
    run(contexts[1], random(64, 16))
    refitter = trt.Refitter(engine, net.logger)
    (name,) = [n for n in refitter.get_all_weights() if "CONSTANT" in n]
    assert refitter.set_named_weights(name, trt.Weights(-W)) and refitter.refit_cuda_engine()
    for context, rows in zip(contexts, (3, 64), strict=True):
        x = random(rows, 16)
        close(run(context, x), np.maximum(x @ -W, 0), 1e-4)
    again = trt.Runtime(net.logger).deserialize_cuda_engine(engine.serialize())
    context = again.create_execution_context()
    assert context.set_optimization_profile_async(1, 0)
    close(run(context, random(64, 16)), np.maximum(random(64, 16) @ -W, 0), 1e-4)


def test_times_and_memory_of_a_profile() -> None:
    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.names: list[str] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.names.append(layer_name)

    engine = engine_of(network((1, 1, 4), (64, 64, 64)))
    context = engine.create_execution_context()
    assert context.set_optimization_profile_async(1, 0)
    context.profiler = profiler = Profiler()
    run(context, random(64, 16))
    assert len(profiler.names) == len(engine._engine.section_of(1).program.steps)
    sizes = [engine.get_device_memory_size_for_profile_v2(i) for i in range(2)]
    assert engine.device_memory_size_v2 >= max(sizes)
