"""Memory for the inputs and outputs of a context, on the GPU where there is one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

import lamina.tensorrt as trt

try:
    from cuda.bindings import runtime as cuda
except ImportError:
    cuda = None


def has_gpu() -> bool:
    """Whether engines run on a GPU here: where there is one, unless the CPU is asked for."""
    if cuda is None or os.environ.get("LAMINA_TENSORRT_DEVICE") == "cpu":
        return False
    error, count = cuda.cudaGetDeviceCount()
    return int(error) == 0 and count > 0


class Buffers:
    """Allocates once the shapes of all inputs are set; ``run`` copies in, runs and copies out."""

    def __init__(self, context: trt.IExecutionContext) -> None:
        self.context = context
        self.on_gpu = has_gpu()
        self.arrays: dict[str, Any] = {}
        self.addresses: dict[str, int] = {}
        engine = context.engine
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            shape = tuple(context.get_tensor_shape(name))
            array = np.zeros(shape, trt.nptype(engine.get_tensor_dtype(name)))
            self.arrays[name] = array
            self.addresses[name] = array.ctypes.data
            on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
            if self.on_gpu and not on_host:
                error, self.addresses[name] = cuda.cudaMalloc(array.nbytes)
                assert int(error) == 0, error
            context.set_tensor_address(name, self.addresses[name])

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run once and return copies of the outputs by name."""
        for name, value in inputs.items():
            self.arrays[name][...] = value
            self._copy(name, to_device=True)
        assert self.context.execute_async_v3(0)
        engine, results = self.context.engine, {}
        for name, array in self.arrays.items():
            if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                self._copy(name, to_device=False)
                results[name] = array.copy()
        return results

    def _copy(self, name: str, *, to_device: bool) -> None:
        array = self.arrays[name]
        host, device = array.ctypes.data, self.addresses[name]
        if host == device:
            return
        kind = cuda.cudaMemcpyKind
        if to_device:
            cuda.cudaMemcpy(device, host, array.nbytes, kind.cudaMemcpyHostToDevice)
        else:
            cuda.cudaMemcpy(host, device, array.nbytes, kind.cudaMemcpyDeviceToHost)

    def free(self) -> None:
        """Give device memory back."""
        for name, address in self.addresses.items():
            if address != self.arrays[name].ctypes.data:
                cuda.cudaFree(address)
