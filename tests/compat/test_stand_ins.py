"""Memory, streams and events where there is no GPU."""

from __future__ import annotations

from tests.compat.conftest import Program


def test_the_runtime_of_cuda(program: Program) -> None:
    program(
        """
        import numpy as np
        from cuda import cudart
        from cuda.bindings import runtime

        assert cudart.cudaMalloc is runtime.cudaMalloc
        errors = runtime.cudaError_t
        success, invalid = errors.cudaSuccess, errors.cudaErrorInvalidValue
        error, device = runtime.cudaMalloc(24)
        assert error == success and device % 256 == 0
        x, y = np.arange(6, dtype=np.float32), np.zeros(6, np.float32)
        _, stream = runtime.cudaStreamCreate()
        kinds = runtime.cudaMemcpyKind
        for call in (
            lambda: runtime.cudaMemcpyAsync(
                device, x.ctypes.data, 24, kinds.cudaMemcpyHostToDevice, stream
            ),
            lambda: runtime.cudaMemcpy(y.ctypes.data, device, 24, kinds.cudaMemcpyDeviceToHost),
            lambda: runtime.cudaStreamSynchronize(stream),
            lambda: runtime.cudaStreamDestroy(stream),
            lambda: runtime.cudaFree(device),
        ):
            assert call() == (success,)
        np.testing.assert_array_equal(x, y)
        assert runtime.cudaFree(device) == (invalid,)
        assert runtime.cudaStreamSynchronize(stream)[0] != success
        assert runtime.cudaMemcpy(0, x.ctypes.data, 24, 0) == (invalid,)
        assert runtime.cudaGetLastError() == (invalid,) and runtime.cudaGetLastError() == (success,)
        assert runtime.cudaMalloc(1 << 60)[0] == runtime.cudaError_t.cudaErrorMemoryAllocation
        _, begin = runtime.cudaEventCreate()
        _, end = runtime.cudaEventCreate()
        runtime.cudaEventRecord(begin, 0), runtime.cudaEventRecord(end, 0)
        assert runtime.cudaEventElapsedTime(begin, end)[1] > 0
        assert runtime.cudaGetErrorString(invalid)[1] == b"invalid value"
        """
    )


def test_there_are_no_graphs(program: Program) -> None:
    program(
        """
        import ctypes
        import tensorrt
        from cuda.bindings import runtime

        _, stream = runtime.cudaStreamCreate()
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeGlobal
        for name, arguments, results in (
            ("cudaStreamBeginCapture", (stream, mode), ()),
            ("cudaStreamEndCapture", (stream,), (None,)),
            ("cudaGraphInstantiate", (1, 0), (None,)),
            ("cudaGraphInstantiateWithFlags", (1, 0), (None,)),
            ("cudaGraphUpload", (1, stream), ()),
            ("cudaGraphLaunch", (1, stream), ()),
            ("cudaGraphDestroy", (1,), ()),
            ("cudaGraphExecDestroy", (1,), ()),
        ):
            refused = runtime.cudaError_t.cudaErrorNotSupported
            assert getattr(runtime, name)(*arguments) == (refused, *results), name
            assert runtime.cudaGetLastError() == (refused,), name
        status = runtime.cudaStreamCaptureStatus.cudaStreamCaptureStatusNone
        assert runtime.cudaStreamIsCapturing(stream) == (runtime.cudaError_t.cudaSuccess, status)
        library = ctypes.CDLL("libcudart.so")
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        handle = ctypes.c_void_p(stream)
        assert library.cudaStreamEndCapture(handle, ctypes.byref(graph)) == refused
        flags = ctypes.c_ulonglong(0)
        assert library.cudaGraphInstantiate(ctypes.byref(executable), graph, flags) == refused
        assert library.cudaGraphLaunch(executable, handle) == refused
        """
    )


def test_the_driver_of_cuda(program: Program) -> None:
    program(
        """
        import numpy as np
        from cuda.bindings import driver as cu

        assert cu.cuInit(0) == (cu.CUresult.CUDA_SUCCESS,)
        assert cu.cuDeviceGetCount()[1] == 1
        _, device = cu.cuDeviceGet(0)
        _, context = cu.cuCtxCreate(0, device)
        _, memory = cu.cuMemAlloc(12)
        _, stream = cu.cuStreamCreate(0)
        x, y = np.array([1, 2, 3], np.float32), np.zeros(3, np.float32)
        assert cu.cuMemcpyHtoDAsync(memory, x.ctypes.data, 12, stream)[0] == 0
        assert cu.cuMemcpyDtoH(y, memory, 12)[0] == 0
        np.testing.assert_array_equal(x, y)
        assert cu.cuMemFree(memory)[0] == 0 and cu.cuMemFree(memory)[0] == 1
        assert cu.cuStreamDestroy(stream)[0] == 0
        assert cu.cuGetErrorName(1) == (0, b"CUDA_ERROR_INVALID_VALUE")
        """
    )


def test_lamina_finds_no_gpu_behind_the_stand_ins(program: Program) -> None:
    found = program(
        """
        import cuda.bindings.driver
        import lamina
        from lamina.runtime.engine import find_driver
        print(find_driver("cuda", 0).missing.splitlines()[0])
        """
    )
    assert found == "there is no GPU: cuda.bindings is a stand-in"


def test_pycuda(program: Program) -> None:
    program(
        """
        import numpy as np
        import pycuda.autoinit
        import pycuda.driver as cuda
        from pycuda import gpuarray

        assert cuda.Device.count() == 1 and cuda.Device(0).name() and cuda.mem_get_info()[0] > 0
        host = cuda.pagelocked_empty((2, 3), np.float32)
        host[:] = 7
        device, stream = cuda.mem_alloc(host.nbytes), cuda.Stream()
        cuda.memcpy_htod_async(device, host, stream)
        back = np.zeros((2, 3), np.float32)
        cuda.memcpy_dtoh_async(back, device, stream)
        stream.synchronize()
        np.testing.assert_array_equal(back, host)
        copy = cuda.mem_alloc(host.nbytes)
        cuda.memcpy_dtod(copy, device, host.nbytes)
        np.testing.assert_array_equal(cuda.from_device(copy, (2, 3), np.float32), host)
        begin, end = cuda.Event(), cuda.Event()
        begin.record(stream), end.record(stream).synchronize()
        assert begin.time_till(end) >= 0
        array = gpuarray.to_gpu(np.arange(4))
        np.testing.assert_array_equal(array.get(), np.arange(4))
        assert not gpuarray.zeros((3,), np.int32).get().any()
        view = host[1:]
        del host
        assert (view == 7).all(), "the memory lives as long as a view of it"
        device.free()
        try:
            cuda.memcpy_dtoh(back, 0)
        except cuda.LogicError as e:
            assert "cudaErrorInvalidValue" in str(e)
        else:
            raise AssertionError
        """
    )


def test_the_library_itself(program: Program) -> None:
    program(
        """
        import ctypes
        import subprocess
        import sys
        import tensorrt

        library = ctypes.CDLL("libcudart.so")
        pointer = ctypes.c_void_p()
        assert library.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(4)) == 0 and pointer.value
        number, back = ctypes.c_int(77), ctypes.c_int(0)
        up, down = (pointer, ctypes.byref(number), 1), (ctypes.byref(back), pointer, 2)
        for to, origin, kind in (up, down):
            assert library.cudaMemcpy(to, origin, ctypes.c_size_t(4), kind) == 0
        assert back.value == 77
        assert library.cudaFree(pointer) == 0 and library.cudaFree(pointer) == 1
        child = "import ctypes; print(ctypes.CDLL('libcudart.so').cudaDeviceSynchronize())"
        # Another process, which only finds the library's folder, has no device.
        assert subprocess.check_output([sys.executable, "-c", child]) == b"100\\n"
        """
    )


_LENET_STYLE = """
import numpy as np
import pycuda.driver as cuda
import pycuda.autoinit
import tensorrt as trt

builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
network = builder.create_network()
builder.max_batch_size = 2
builder.max_workspace_size = 1 << 20
x = network.add_input(name="x", dtype=trt.float32, shape=(1, 4, 4))
ones, zeros = np.ones((2, 1, 3, 3), np.float32), np.zeros(2, np.float32)
conv = network.add_convolution(x, 2, (3, 3), ones, zeros)
conv.stride = (1, 1)
pool = network.add_pooling(conv.get_output(0), trt.PoolingType.MAX, (2, 2))
pool.stride = (2, 2)
pool.get_output(0).name = "y"
network.mark_output(pool.get_output(0))
with builder.build_cuda_engine(network) as engine:
    host = {n: cuda.pagelocked_empty(
        trt.volume(engine.get_binding_shape(n)) * engine.max_batch_size,
        trt.nptype(engine.get_binding_dtype(n))) for n in engine}
    device = {n: cuda.mem_alloc(a.nbytes) for n, a in host.items()}
    host["x"][:] = np.arange(32)
    stream = cuda.Stream()
    with engine.create_execution_context() as context:
        cuda.memcpy_htod_async(device["x"], host["x"], stream)
        assert context.execute_async(2, [int(device[n]) for n in engine], stream.handle)
        cuda.memcpy_dtoh_async(host["y"], device["y"], stream)
        stream.synchronize()
print(host["y"].tolist())
"""


def test_a_program_of_version_7(program: Program) -> None:
    assert program(_LENET_STYLE, LAMINA_TENSORRT_VERSION="7") == "[90.0, 90.0, 234.0, 234.0]"


def test_what_else_programs_import_from_pycuda(program: Program) -> None:
    program(
        """
        import numpy as np
        import pycuda.driver as cuda
        from pycuda.tools import make_default_context

        cuda.init()
        context = make_default_context()
        assert cuda.Device(0).pci_bus_id() == "0000:00:00.0"

        class Tensor(cuda.PointerHolderBase):
            def __init__(self, array):
                super().__init__()
                self.array = array

            def get_pointer(self):
                return self.array.ctypes.data

        x, stream = np.arange(4, dtype=np.float32), cuda.Stream()
        memory = cuda.mem_alloc(x.nbytes)
        cuda.memcpy_dtod_async(memory, Tensor(x), x.nbytes, stream)
        np.testing.assert_array_equal(cuda.from_device_like(memory, x), x)
        cuda.memset_d8_async(memory, 0, x.nbytes, stream)
        assert not cuda.from_device_like(memory, x).any()
        context.pop()
        """
    )
