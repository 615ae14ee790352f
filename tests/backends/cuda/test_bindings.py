"""The layer above cuda-bindings, with the package's own types and functions that only record."""

from __future__ import annotations

import ctypes
import sys

import pytest

from lamina.backends.cuda import bindings
from lamina.backends.cuda.bindings import BindingsDevice
from lamina.backends.cuda.device import KernelLaunch, OutOfMemory, current
from lamina.backends.cuda.tensor_maps import EncodeFunction, TensorMap
from lamina.errors import DeviceError

cu = pytest.importorskip("cuda.bindings.driver")
OK = cu.CUresult.CUDA_SUCCESS


class Recording:
    """The package's module, with functions that succeed, return numbers and note their calls."""

    def __init__(self):
        self.calls, self.context = [], []
        self.fail = {}
        self.results = {
            "cuDeviceGetCount": [2],
            "cuDeviceGet": [cu.CUdevice(0)],
            "cuDriverGetVersion": [13000],
            "cuDeviceGetName": [b"NVIDIA Test" + bytes(245)],
            "cuDeviceGetAttribute": [9],
            "cuDevicePrimaryCtxRetain": [cu.CUcontext(4096)],
            "cuDeviceGetDefaultMemPool": [cu.CUmemoryPool(1)],
            "cuMemAllocAsync": [cu.CUdeviceptr(512)],
            "cuMemHostAlloc": [1024],
            "cuMemGetInfo": [10, 20],
            "cuStreamCreate": [cu.CUstream(64)],
            "cuEventCreate": [cu.CUevent(65)],
            "cuEventElapsedTime": [0.25],
            "cuModuleLoadData": [cu.CUmodule(66)],
            "cuModuleGetFunction": [cu.CUfunction(67)],
            "cuGraphCreate": [cu.CUgraph(68)],
            "cuGraphAddKernelNode": [cu.CUgraphNode(69)],
            "cuStreamEndCapture": [cu.CUgraph(71)],
            "cuGraphAddChildGraphNode": [cu.CUgraphNode(72)],
            "cuGraphAddEventRecordNode": [cu.CUgraphNode(73)],
            "cuGraphInstantiate": [cu.CUgraphExec(70)],
            "cuGetErrorString": [b"what it means"],
        }

    def cuCtxGetCurrent(self):
        return OK, cu.CUcontext(self.context[-1] if self.context else 0)

    def cuCtxPushCurrent(self, context):
        self.context.append(int(context))
        return (OK,)

    def cuCtxSetCurrent(self, context):
        self.context = [int(context)]
        return (OK,)

    def cuCtxPopCurrent(self):
        return OK, cu.CUcontext(self.context.pop())

    def __getattr__(self, name):
        known = getattr(cu, name)
        if isinstance(known, type) or not callable(known):
            return known

        def call(*arguments):
            self.calls.append((name, arguments))
            if name in self.fail:
                return getattr(cu.CUresult, self.fail[name]), *self.results.get(name, [])
            return OK, *self.results.get(name, [])

        return call

    def last(self, name):
        return next(a for n, a in reversed(self.calls) if n == name)


@pytest.fixture
def driver():
    return Recording()


@pytest.fixture
def device(driver):
    return BindingsDevice(driver, 1)


def launch(**changes):
    options = {
        "function": cu.CUfunction(67),
        "grid": (5, 2, 1),
        "threads": 128,
        "shared_bytes": 70000,
        "values": (1 << 40, 7, 1 << 41, 0, 0),
        "types": ("p", "i32", "i64", "p", "p"),
    }
    return KernelLaunch(**(options | changes))


def test_a_device_describes_itself_and_is_current_only_while_used(driver, device):
    assert (device.name, device.model, device.arch) == ("cuda:1", "NVIDIA Test", 99)
    assert device.driver_version == 13000 and driver.context == []
    with current(device):
        assert driver.context == [4096]
        with current(device):
            assert driver.context == [4096]
        driver.context.append(77)  # another library's
        with current(device):
            assert driver.context == [4096, 77, 4096]
        driver.context.pop()
    assert driver.context == []


def test_the_first_gpu_stays_current_where_none_was(driver):
    device = BindingsDevice(driver, 0)
    for _ in range(2):
        with current(device):
            assert driver.context == [4096]
    assert driver.context == [4096]


def test_a_launch_carries_grid_attributes_and_arguments(driver, device):
    device.launch(launch(dependent=True, cluster=(2, 1, 1)), 64)
    config, function, (values, types), extra = driver.last("cuLaunchKernelEx")
    assert (config.gridDimX, config.gridDimY, config.gridDimZ) == (5, 2, 1)
    assert (config.blockDimX, config.sharedMemBytes, int(config.hStream)) == (128, 70000, 64)
    dependent, cluster = config.attrs
    assert config.numAttrs == 2 and dependent.value.programmaticStreamSerializationAllowed == 1
    assert (cluster.value.clusterDim.x, cluster.value.clusterDim.y) == (2, 1)
    assert int(function) == 67 and extra == 0 and values == (1 << 40, 7, 1 << 41, 0, 0)
    assert types[:3] == (ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64)
    device.launch(launch(), 64)
    assert driver.last("cuLaunchKernelEx")[0].numAttrs == 0


def test_nodes_of_a_graph_hold_packed_arguments_and_edges(driver, device):
    graph = device.graph()
    first = device.add_kernel(graph, launch(), [], programmatic=False)
    device.add_kernel(graph, launch(cluster=(4, 1, 1)), [first], programmatic=True)
    _, after, count, params = driver.last("cuGraphAddKernelNode")
    assert (after, count) == ([], 0)
    raw = (ctypes.c_uint64 * 9).from_address(params.getPtr())
    arguments = (ctypes.c_uint64 * 5).from_address(raw[5])
    assert ctypes.c_uint64.from_address(arguments[0]).value == 1 << 40
    assert ctypes.c_int32.from_address(arguments[1]).value == 7
    assert ctypes.c_uint64.from_address(arguments[2]).value == 1 << 41
    _, sources, targets, edges, number = driver.last("cuGraphAddDependencies")
    assert (sources, targets, number) == ([first], [cu.CUgraphNode(69)], 1)
    assert bytes((ctypes.c_uint8 * 3).from_address(edges[0].getPtr())) == bytes([1, 0, 1])
    node, kind, value = driver.last("cuGraphKernelNodeSetAttribute")
    assert kind == cu.CU_KERNEL_NODE_ATTRIBUTE_CLUSTER_DIMENSION and value.clusterDim.x == 4
    device.add_kernel(graph, launch(), [first], programmatic=False)
    assert driver.last("cuGraphAddKernelNode")[1:3] == ([first], 1)
    executable = device.instantiate(graph)
    device.update_kernel(executable, node, launch(grid=(6, 1, 1)))
    assert driver.last("cuGraphExecKernelNodeSetParams")[2].gridDimX == 6
    device.launch_graph(executable, 64)
    device.destroy_graph(graph, executable)
    assert [n for n, _ in driver.calls[-2:]] == ["cuGraphExecDestroy", "cuGraphDestroy"]


class Encoding:
    """Stands for the driver's function: writes the address into the map."""

    def __init__(self, driver):
        self.error = 0
        self.function = EncodeFunction(self._encode)
        pointer = ctypes.cast(self.function, ctypes.c_void_p).value
        driver.results["cuGetProcAddress"] = [pointer, None]

    def _encode(self, at, kind, rank, address, *_):
        ctypes.c_uint64.from_address(at).value = address
        return self.error


ROWS = TensorMap(element="f16", sizes=(9, 40), strides=(48, 1), box=(8, 32), swizzle=64)
MAPPED = {"values": (1 << 40, 7, 1 << 41, 0), "types": ("m", "i32", "p", "p"), "maps": (ROWS,)}


def test_tensor_maps_are_passed_by_value_with_their_shapes(driver, device):
    encoding = Encoding(driver)
    device.launch(launch(**MAPPED), 64)
    _, _, (values, types), _ = driver.last("cuLaunchKernelEx")
    assert ctypes.c_uint64.from_buffer(values[0]).value == 1 << 40
    assert values[1:] == (9, 40, 48, 1, 7, 1 << 41, 0)
    assert types[:4] == (None, ctypes.c_int32, ctypes.c_int32, ctypes.c_int64)
    graph = device.graph()
    node = device.add_kernel(graph, launch(**MAPPED), [], programmatic=False)
    params = driver.last("cuGraphAddKernelNode")[3]
    other = MAPPED | {"values": (1 << 42, 7, 1 << 41, 0)}
    device.update_kernel(device.instantiate(graph), node, launch(**other))
    assert driver.last("cuGraphExecKernelNodeSetParams")[2].gridDimX == params.gridDimX == 5
    assert [n for n, _ in driver.calls].count("cuGetProcAddress") == 1
    encoding.error = int(cu.CUresult.CUDA_ERROR_INVALID_VALUE)
    with pytest.raises(DeviceError, match=r"cuTensorMapEncodeTiled of .*sizes=\(9, 40\).*INVALID"):
        device.launch(launch(**MAPPED), 64)


def test_captured_work_becomes_a_node(driver, device):
    seen = []
    part = device.capture(seen.append)
    names = [n for n, _ in driver.calls if "Stream" in n]
    assert seen == [64] and names == [
        "cuStreamCreate", "cuStreamBeginCapture", "cuStreamEndCapture", "cuStreamDestroy",
    ]  # fmt: skip
    assert driver.last("cuStreamCreate") == (int(cu.CUstream_flags.CU_STREAM_NON_BLOCKING),)
    node = device.add_graph(device.graph(), part, [5, 6])
    assert driver.last("cuGraphAddChildGraphNode")[1:3] == ([5, 6], 2)
    event = device.event(timing=True)
    device.add_record(device.graph(), event, [node])
    assert driver.last("cuGraphAddEventRecordNode")[1:] == ([node], 1, event)
    device.update_graph(70, node, part)
    assert driver.last("cuGraphExecChildGraphNodeSetParams") == (70, node, part)


def test_a_capture_that_fails_leaves_nothing_behind(driver, device):
    def fail(stream):
        raise DeviceError("the library refuses")

    with pytest.raises(DeviceError, match="the library refuses"):
        device.capture(fail)
    assert [n for n, _ in driver.calls][-3:] == [
        "cuStreamEndCapture", "cuGraphDestroy", "cuStreamDestroy",
    ]  # fmt: skip


def test_libraries_are_opened_once(device, monkeypatch):
    opened = []
    monkeypatch.setattr(bindings, "open_library", lambda *a: opened.append(a) or len(opened))
    assert device.library("cublaslt") == device.library("cublaslt") == 1
    assert opened == [("cublaslt", device)]


def test_memory_streams_events_and_modules(driver, device):
    assert device.allocate(100, 64) == 512 and device.allocate_host(100) == 1024
    device.copy(1, 2, 3, 64)
    device.clear(1, 3, 64)
    assert driver.last("cuMemsetD8Async") == (1, 0, 3, 64)
    assert device.memory_info() == (10, 20)
    stream, event = device.stream(), device.event()
    assert stream == 64 and driver.last("cuEventCreate") == (2,)
    device.record(event, stream)
    device.wait(stream, event)
    assert device.microseconds(event, device.event(timing=True)) == 250
    assert driver.last("cuEventCreate") == (0,)
    function = device.function(device.load(b"elf"), "kernel", 70000)
    most = cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    assert driver.last("cuFuncSetAttribute") == (function, most, 70000)


def test_the_place_of_a_pointer(driver, device):
    host, there = cu.CUmemorytype.CU_MEMORYTYPE_HOST, cu.CUmemorytype.CU_MEMORYTYPE_DEVICE
    ordinal = cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    for kind, wanted in ((host, None), (there, 3)):
        driver.cuPointerGetAttribute = lambda what, _, kind=kind: (
            OK,
            3 if what == ordinal else kind,
        )
        assert device.ordinal_of(512) == wanted
    driver.cuPointerGetAttribute = lambda *_: (cu.CUresult.CUDA_ERROR_INVALID_VALUE, 0)
    assert device.ordinal_of(512) is None


def test_errors_say_what_failed_and_fatal_ones_lose_the_device(monkeypatch, driver, device):
    monkeypatch.setattr(bindings, "_faults", {})
    driver.fail = {
        "cuMemAllocAsync": "CUDA_ERROR_OUT_OF_MEMORY",
        "cuGraphLaunch": "CUDA_ERROR_UNKNOWN",
    }
    with pytest.raises(OutOfMemory, match=r"cuMemAllocAsync failed on cuda:1: .*what it means"):
        device.allocate(100, 64)
    with pytest.raises(DeviceError, match="cuGraphLaunch failed on cuda:1"):
        device.launch_graph(cu.CUgraphExec(70), 64)
    assert device.lost == "" and device.enter()
    driver.fail = {"cuStreamSynchronize": "CUDA_ERROR_ILLEGAL_ADDRESS"}
    for use in (lambda: device.synchronize(64), device.enter):
        with pytest.raises(DeviceError, match="cuda:1 is lost to this process: cuStreamSynch") as e:
            use()
        assert "LAMINA_CUDA_CHECK=1" in str(e.value)


def test_a_fault_of_another_gpu_is_named_as_the_cause(monkeypatch, driver):
    monkeypatch.setattr(bindings, "_faults", {})
    driver.fail = {"cuStreamSynchronize": "CUDA_ERROR_ILLEGAL_ADDRESS"}
    first, second = BindingsDevice(driver, 1), BindingsDevice(driver, 0)
    with pytest.raises(DeviceError, match="cuda:1 is lost to this process: cuStreamSynchronize"):
        first.synchronize(64)
    with pytest.raises(DeviceError, match="cuda:0 is lost .*failed on cuda:1: .*, and then cuSt"):
        second.synchronize(64)
    with pytest.raises(DeviceError, match="failed on cuda:1"):
        second.enter()


def test_what_is_missing_is_named(monkeypatch, driver):
    with pytest.raises(DeviceError, match="there is no GPU 2\n.*this machine has 2"):
        BindingsDevice(driver, 2)
    monkeypatch.setattr(bindings, "_devices", {})
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(DeviceError, match=r"pip install 'lamina\[cuda\]'"):
        bindings.open_device(0)
    for error, fact in (
        ("CUDA_ERROR_NO_DEVICE", "finds no GPU"),
        ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "does not start: CUDA_ERROR_SYSTEM_DRIVER"),
    ):
        driver.fail = {"cuInit": error}
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
        with pytest.raises(DeviceError, match=fact):
            bindings.open_device(0)

    def no_library(_):
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    driver.cuInit = no_library
    with pytest.raises(DeviceError, match="no NVIDIA driver: Failed to dlopen"):
        bindings.open_device(0)


def test_a_driver_without_a_function_is_too_old(driver, device):
    def missing(*_):
        raise RuntimeError('Function "cuGraphAddDependencies_v2" not found')

    driver.cuGraphCreate = missing
    with pytest.raises(DeviceError, match="cuGraphAddDependencies_v2.*\n.*newer driver"):
        device.graph()


def test_programs_keep_their_own_context(driver, monkeypatch):
    monkeypatch.setattr(bindings, "_driver", lambda: driver)
    monkeypatch.setattr(bindings, "_devices", {})
    driver.results["cuCtxGetDevice"] = [cu.CUdevice(0)]
    driver.results["cuDevicePrimaryCtxGetState"] = [0, 1]
    usual = bindings.open_device(0)
    assert bindings.open_device(0) is usual, "no context is current"
    driver.context = [4096]
    assert bindings.open_device(0) is usual, "the primary one is current"
    retained = sum(name == "cuDevicePrimaryCtxRetain" for name, _ in driver.calls)
    released = sum(name == "cuDevicePrimaryCtxRelease" for name, _ in driver.calls)
    assert retained == released + 1
    driver.context = [99]  # as PyCUDA makes one
    other = bindings.open_device(0)
    assert other is not usual and bindings.open_device(0) is other
    driver.context = []
    with current(other):
        assert driver.context == [99]
    with current(usual):
        assert driver.context == [4096]
    driver.context = [99]
    assert bindings.open_device(1) is not other, "the context is one of another GPU"
    driver.results["cuDevicePrimaryCtxGetState"] = [0, 0]
    assert bindings.open_device(0) is other, "there is no primary context"
    driver.fail["cuCtxGetDevice"] = "CUDA_ERROR_INVALID_CONTEXT"
    assert bindings.open_device(0) is usual


def test_what_a_program_records_is_noticed(driver, device):
    statuses = cu.CUstreamCaptureStatus
    driver.results["cuStreamIsCapturing"] = [statuses.CU_STREAM_CAPTURE_STATUS_ACTIVE]
    assert device.is_capturing(64)
    driver.results["cuStreamIsCapturing"] = [statuses.CU_STREAM_CAPTURE_STATUS_NONE]
    assert not device.is_capturing(64)
    driver.fail["cuStreamIsCapturing"] = "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"
    assert not device.is_capturing(0)


def test_a_device_tells_numbers_of_itself(driver, device):
    facts = device.facts()
    assert facts.multiprocessors == facts.clock_khz == 9 and facts.ecc is True


def test_the_current_gpu_has_a_number(driver, monkeypatch):
    monkeypatch.setattr(bindings, "_driver", lambda: driver)
    driver.results["cuCtxGetDevice"] = [cu.CUdevice(1)]
    assert bindings.current_ordinal() == 0, "no context is current"
    driver.context = [4096]
    assert bindings.current_ordinal() == 1
    driver.fail["cuCtxGetDevice"] = "CUDA_ERROR_INVALID_CONTEXT"
    assert bindings.current_ordinal() == 0
