"""Memory of the program's own: an allocator for the engine, another one for its outputs.

Run it with the distribution in compat/tensorrt, which gives the modules ``tensorrt`` and, where
there is no GPU, ``cuda.bindings``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorrt as trt
from cuda.bindings import runtime as cuda


def call(function: Any, *arguments: Any) -> Any:
    """Call CUDA and return the result."""
    error, *results = function(*arguments)
    assert int(error) == 0, error
    return results[0] if results else None


class CountingAllocator(trt.IGpuAllocator):
    """Passes requests on to CUDA and counts what is out."""

    def __init__(self) -> None:
        trt.IGpuAllocator.__init__(self)
        self.sizes: dict[int, int] = {}
        self.most = 0

    def allocate(self, size: int, alignment: int, flags: int) -> int:
        """Return memory; CUDA aligns to 256 bytes."""
        address = int(call(cuda.cudaMalloc, size))
        assert address % alignment == 0
        self.sizes[address] = size
        self.most = max(self.most, sum(self.sizes.values()))
        return address

    def deallocate(self, memory: int) -> bool:
        """Take memory back."""
        del self.sizes[memory]
        call(cuda.cudaFree, memory)
        return True


class GrowingOutput(trt.IOutputAllocator):
    """Keeps one block for an output, and a larger one when that is too small."""

    def __init__(self) -> None:
        trt.IOutputAllocator.__init__(self)
        self.address = self.size = 0
        self.shape: tuple[int, ...] = ()

    def reallocate_output_async(
        self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
    ) -> int:
        """Return memory of at least ``size`` bytes."""
        if size > self.size:
            call(cuda.cudaFree, self.address)
            self.address, self.size = int(call(cuda.cudaMalloc, size)), size
        return self.address

    def notify_shape(self, tensor_name: str, shape: Any) -> None:
        """Learn the shape, which the contents of the input decide."""
        self.shape = tuple(shape)


def build(logger: trt.ILogger) -> Any:
    """Return an engine that finds the positive elements of a product."""
    builder = trt.Builder(logger)
    network = builder.create_network()
    x = network.add_input("x", trt.float32, (64, 64))
    none = trt.MatrixOperation.NONE
    square = network.add_matrix_multiply(x, none, x, none).get_output(0)
    again = network.add_matrix_multiply(square, none, x, none).get_output(0)
    positive = network.add_activation(again, trt.ActivationType.RELU).get_output(0)
    found = network.add_non_zero(positive).get_output(0)
    found.name = "found"
    network.mark_output(found)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # full precision on GPUs too, for the comparison
    return builder.build_serialized_network(network, config)


def main() -> None:
    """Run twice; the second result needs more memory than the first."""
    logger, allocator, output = trt.Logger(), CountingAllocator(), GrowingOutput()
    plan = build(logger)
    runtime = trt.Runtime(logger)
    runtime.gpu_allocator = allocator
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    x = np.zeros((64, 64), np.float32)
    device = call(cuda.cudaMalloc, x.nbytes)
    context.set_tensor_address("x", int(device))
    context.set_output_allocator("found", output)
    stream = call(cuda.cudaStreamCreate)
    kinds = cuda.cudaMemcpyKind
    for filled in (8, 64):
        x[:filled, :filled] = np.random.default_rng(0).standard_normal((filled, filled))
        call(cuda.cudaMemcpy, device, x.ctypes.data, x.nbytes, kinds.cudaMemcpyHostToDevice)
        assert context.execute_async_v3(int(stream))
        call(cuda.cudaStreamSynchronize, stream)
        result = np.zeros(output.shape, trt.nptype(engine.get_tensor_dtype("found")))
        source = output.address
        kind = kinds.cudaMemcpyDeviceToHost
        call(cuda.cudaMemcpy, result.ctypes.data, source, result.nbytes, kind)
        wanted = np.array(np.nonzero(x @ x @ x > 0))
        agree = len(set(zip(*result, strict=True)) & set(zip(*wanted, strict=True)))
        print(f"{output.shape[1]} positive elements, {agree} of {wanted.shape[1]} as in NumPy")
        assert abs(agree - wanted.shape[1]) <= 2  # sums near zero round differently
    print(f"the engine asked for {allocator.most} bytes at most")
    assert allocator.most > 0
    call(cuda.cudaFree, device)
    call(cuda.cudaStreamDestroy, stream)


if __name__ == "__main__":
    main()
