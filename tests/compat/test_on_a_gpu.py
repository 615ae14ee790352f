"""The optional distribution on a GPU: what steps aside, and what stands in for PyCUDA."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from lamina.tensorrt import platform
from tests.architecture.source_files import ROOT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(platform.device() != "cuda", reason="there is no GPU"),
]


def child(text: str, *arguments: str, **environment: str) -> str:
    """Run a program with the optional distribution on its path and return what it prints."""
    paths = [ROOT / "compat" / "tensorrt" / "src", ROOT / "src", ROOT]
    known = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*map(str, paths), *known]),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


OTHER_CONTEXT = """
    import sys
    import numpy as np
    from cuda.bindings import driver as cu

    def good(result):
        error, *values = result
        assert int(error) == 0, error
        return values[0] if values else None

    good(cu.cuInit(0))
    device = good(cu.cuDeviceGet(0))
    parameters = cu.CUctxCreateParams()
    context = good(cu.cuCtxCreate(parameters, 0, device))  # as PyCUDA makes one
    import lamina.tensorrt as trt

    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    network = builder.create_network()
    x = network.add_input("x", trt.float32, (64,))
    y = network.add_activation(x, trt.ActivationType.RELU).get_output(0)
    y.name = "y"
    network.mark_output(y)
    data = builder.build_serialized_network(network, builder.create_builder_config())
    engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(data)
    run = engine.create_execution_context()
    stream = good(cu.cuStreamCreate(0))
    x, y = np.linspace(-1, 1, 64, dtype=np.float32), np.empty(64, np.float32)
    at = [good(cu.cuMemAlloc(256)) for _ in range(2)]
    for name, address in zip(("x", "y"), at):
        run.set_tensor_address(name, int(address))
    good(cu.cuMemcpyHtoD(at[0], x.ctypes.data, 256))
    for _ in range(3):
        assert run.execute_async_v3(int(stream))
    good(cu.cuStreamSynchronize(stream))
    good(cu.cuMemcpyDtoH(y.ctypes.data, at[1], 256))
    assert (y == np.maximum(x, 0)).all()
    print("same")
"""


def test_a_context_that_is_not_the_primary_one() -> None:
    assert child(OTHER_CONTEXT) == "same\n"


def test_pycuda_without_pycuda() -> None:
    found = child(
        """
        import numpy as np
        import pycuda.autoinit
        import pycuda.driver as cuda
        from pycuda import gpuarray

        device = cuda.Device(0)
        assert device.compute_capability()[0] >= 7 and ":" in device.pci_bus_id()
        host = cuda.pagelocked_empty((2, 3), np.float32)
        host[:] = 7
        memory, stream = cuda.mem_alloc(host.nbytes), cuda.Stream()
        cuda.memcpy_htod_async(memory, host, stream)
        back = np.zeros((2, 3), np.float32)
        begin, end = cuda.Event(), cuda.Event()
        begin.record(stream)
        cuda.memcpy_dtoh_async(back, memory, stream)
        end.record(stream).synchronize()
        stream.synchronize()
        np.testing.assert_array_equal(back, host)
        assert begin.time_till(end) >= 0 and stream.is_done() and end.query()
        array = gpuarray.to_gpu(np.arange(4))
        np.testing.assert_array_equal(array.get(), np.arange(4))
        memory.free()
        try:
            cuda.memcpy_dtoh(back, 0)
        except cuda.LogicError as e:
            print(str(e))
        """
    )
    assert found.startswith("cudaMemcpy failed: cudaErrorInvalidValue")


def test_the_library_of_cudas_runtime() -> None:
    child(
        """
        import ctypes
        import tensorrt

        library = ctypes.CDLL("libcudart.so")
        pointer, stream = ctypes.c_void_p(), ctypes.c_void_p()
        assert library.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(4)) == 0 and pointer.value
        assert library.cudaStreamCreate(ctypes.byref(stream)) == 0 and stream.value
        number, back = ctypes.c_int(77), ctypes.c_int(0)
        up, down = (pointer, ctypes.byref(number), 1), (ctypes.byref(back), pointer, 2)
        for to, origin, kind in (up, down):
            size = ctypes.c_size_t(4)
            assert library.cudaMemcpyAsync(to, origin, size, kind, stream) == 0
        assert library.cudaStreamSynchronize(stream) == 0 and back.value == 77
        assert library.cudaFree(pointer) == 0
        """
    )
