"""A plugin made of decorated functions: what its result is, and how it is computed.

On the CPU the function in Python runs.  On a GPU a Triton kernel does, which is compiled while the
engine is built and is a part of the engine: running it needs neither Triton nor this file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from buffers import Buffers

import lamina.tensorrt as trt
import lamina.tensorrt.plugin as trtp

BLOCK = 256


@trtp.register("example::soft_clip")
def soft_clip_description(x: trtp.TensorDesc, limit_millis: int) -> trtp.TensorDesc:
    """Describe the result: as the operand."""
    return x.like()


@trtp.impl("example::soft_clip")
def soft_clip(
    x: trtp.Tensor, limit_millis: int, outputs: tuple[trtp.Tensor, ...], stream: int
) -> None:
    """Compute ``limit * tanh(x / limit)`` in place of the result."""
    limit = np.float32(limit_millis / 1000)
    np.asarray(outputs[0])[...] = limit * np.tanh(np.asarray(x) / limit)


@trtp.aot_impl("example::soft_clip")
def soft_clip_kernel(
    x: trtp.TensorDesc, limit_millis: int, outputs: tuple[trtp.TensorDesc, ...], tactic: int
) -> tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]:
    """Return the kernel and how it is launched, by sizes that only a run knows."""
    from soft_clip_kernel import compile_soft_clip

    kernel = compile_soft_clip("fp32" if x.dtype == trt.float32 else "fp16", BLOCK)
    count = x.shape_expr.numel()
    launch = trtp.KernelLaunchParams()
    launch.grid_x = trtp.cdiv(count, BLOCK)
    launch.block_x = kernel.metadata.num_warps * 32
    launch.shared_mem = kernel.metadata.shared
    arguments: list[Any] = [trtp.SymInt32(limit_millis), trtp.SymInt32(count)]
    return kernel.metadata.name, kernel.asm["ptx"], launch, trtp.SymIntExprs.from_tuple(arguments)


def main() -> None:
    """Build and run."""
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network()
    x = network.add_input("x", trt.float32, (-1, 3))
    layer = network.add_plugin(trtp.op.example.soft_clip(x, limit_millis=2000))
    layer.get_output(0).name = "y"
    network.mark_output(layer.get_output(0))
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 3), (2, 3), (1000, 3))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    data = builder.build_serialized_network(network, config)
    engine = trt.Runtime(logger).deserialize_cuda_engine(data)
    for rows in (2, 1000):
        context = engine.create_execution_context()
        context.set_input_shape("x", (rows, 3))
        buffers = Buffers(context)
        given = np.linspace(-16, 16, 3 * rows, dtype=np.float32).reshape(rows, 3)
        result = buffers.run({"x": given})["y"]
        np.testing.assert_allclose(result, 2 * np.tanh(given / 2), rtol=2e-6, atol=2e-6)
        print(f"{rows} rows:", result[0], "...", result[-1])
        buffers.free()


if __name__ == "__main__":
    main()
