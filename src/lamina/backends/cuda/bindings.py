"""The CUDA driver through ``cuda-bindings``; the only file that imports that package."""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from lamina.backends.cuda.device import DeviceFacts, Handle, KernelLaunch, OutOfMemory
from lamina.backends.cuda.library.catalogue import open_library
from lamina.backends.cuda.primitive import Library
from lamina.backends.cuda.tensor_maps import EncodedMap, Encoder, TensorMap, passed
from lamina.errors import DeviceError

_KEPT_POOL_BYTES: Final = 256 << 20
"""What the driver's memory pool keeps when it is free: results of a run reuse it in the next."""

_STATIC_SHARED_BYTES: Final = 48 << 10
_WARP: Final = 32
_ON_CPU: Final = "use device='cpu' (LAMINA_TENSORRT_DEVICE=cpu where a program uses TensorRT's API)"
_WITHOUT_GPU: Final = f"{_ON_CPU}; a build for another machine's GPU names it: target='cuda:sm_90'"
_TYPES: Final[dict[str, Any]] = {
    "p": ctypes.c_void_p,
    "i8": ctypes.c_int8,
    "i16": ctypes.c_int16,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "u8": ctypes.c_uint8,
    "u16": ctypes.c_uint16,
    "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64,
}
_MAPS_SINCE: Final = 12000
"""The version of CUDA whose driver encodes tensor maps."""
_Arguments = tuple[tuple[Any, ...], tuple[Any, ...]]
"""Values of a kernel's parameters and their types."""
_STICKY: Final = (
    "ILLEGAL_ADDRESS",
    "LAUNCH_FAILED",
    "LAUNCH_TIMEOUT",
    "ILLEGAL_INSTRUCTION",
    "MISALIGNED_ADDRESS",
    "INVALID_ADDRESS_SPACE",
    "INVALID_PC",
    "HARDWARE_STACK_ERROR",
    "ASSERT",
    "ECC_UNCORRECTABLE",
    "CONTEXT_IS_DESTROYED",
    "EXTERNAL_DEVICE",
    "CONTAINED",
    "DEINITIALIZED",
)
"""Errors after which every call of this process fails, on its other GPUs too.

They leave the process in an inconsistent state (driver API, CUresult): measured on two H200s, a
kernel's illegal address on one makes the next call on the other return the same error.
"""

_faults: dict[str, str] = {}
"""What each lost device says, the first one first: it is the cause of the others."""
_lock = threading.Lock()
_devices: dict[tuple[int, int], BindingsDevice] = {}


def open_device(ordinal: int) -> BindingsDevice:
    """Return a GPU of this machine; DeviceError says what is missing.

    It works in the GPU's primary context, unless the thread's current one is another of that GPU,
    as PyCUDA makes it: the addresses and streams of such a program are valid in that one only.
    """
    cu = _driver()
    with _lock:
        context = _other_context(cu, ordinal)
        key = (ordinal, 0 if context is None else int(context))
        if key not in _devices:
            _devices[key] = BindingsDevice(cu, ordinal, context)
        return _devices[key]


def current_ordinal() -> int:
    """Return the number of the GPU whose context is current in this thread, 0 where none is."""
    cu = _driver()
    error, context = cu.cuCtxGetCurrent()
    if error != cu.CUresult.CUDA_SUCCESS or not int(context):
        return 0
    error, device = cu.cuCtxGetDevice()
    return int(device) if error == cu.CUresult.CUDA_SUCCESS else 0


def _other_context(cu: Any, ordinal: int) -> Any | None:
    """Return the current context if it is one of this GPU and not the primary one."""
    success = cu.CUresult.CUDA_SUCCESS
    error, context = cu.cuCtxGetCurrent()
    if error != success or not int(context):
        return None
    error, device = cu.cuCtxGetDevice()
    if error != success or int(device) != ordinal:
        return None
    error, _, active = cu.cuDevicePrimaryCtxGetState(device)
    if error != success or not active:
        return context
    _, primary = cu.cuDevicePrimaryCtxRetain(device)  # there is no other way to learn it
    cu.cuDevicePrimaryCtxRelease(device)
    return None if int(primary) == int(context) else context


def _driver() -> Any:
    try:
        cu = importlib.import_module("cuda.bindings.driver")
    except ImportError as e:
        raise DeviceError(
            f"the package cuda-bindings is not installed ({e})",
            hint="install it: pip install 'lamina[cuda]'",
        ) from e
    if getattr(cu, "IS_STAND_IN", False):  # of compat/tensorrt: it works in host memory
        raise DeviceError(
            "there is no GPU: cuda.bindings is a stand-in",
            hint=f"with a GPU: pip install 'lamina[cuda]'; without: {_WITHOUT_GPU}",
        )
    try:
        (error,) = cu.cuInit(0)
    except RuntimeError as e:  # the package found no libcuda
        raise DeviceError(
            f"there is no NVIDIA driver: {e}", hint=f"install the driver, or {_WITHOUT_GPU}"
        ) from e
    if error.name == "CUDA_ERROR_NO_DEVICE":
        raise DeviceError("the NVIDIA driver finds no GPU", hint=_WITHOUT_GPU)
    if error.name != "CUDA_SUCCESS":
        raise DeviceError(
            f"the NVIDIA driver does not start: {_describe(cu, error)}",
            hint=f"compare `nvidia-smi` with the driver that the GPU needs, or {_ON_CPU}",
        )
    return cu


def _describe(cu: Any, error: Any) -> str:
    _, text = cu.cuGetErrorString(error)
    return f"{error.name} ({text.decode() if text else 'no description'})"


class BindingsDevice:
    """A GPU through its primary context, which other libraries in the process share.

    Or through another ``context``, which must stay as long as this object.
    """

    def __init__(self, cu: Any, ordinal: int, context: Any | None = None) -> None:
        self._cu = cu
        self._success = cu.CUresult.CUDA_SUCCESS
        self.ordinal, self.name, self.lost = ordinal, f"cuda:{ordinal}", ""
        count = self._call("cuDeviceGetCount")
        if not 0 <= ordinal < count:
            raise DeviceError(f"there is no GPU {ordinal}", hint=f"this machine has {count}")
        self._device = self._call("cuDeviceGet", ordinal)
        self.driver_version: int = self._call("cuDriverGetVersion")
        self.model: str = self._call("cuDeviceGetName", 256, self._device).split(b"\0")[0].decode()
        self.arch = 10 * self._attribute("COMPUTE_CAPABILITY_MAJOR") + self._attribute(
            "COMPUTE_CAPABILITY_MINOR"
        )
        self._is_primary = context is None
        self._context = (
            self._call("cuDevicePrimaryCtxRetain", self._device) if context is None else context
        )
        self._context_number = int(self._context)
        self._libraries: dict[str, Library] = {}
        self._encode: Encoder | None = None
        self._library_lock = threading.Lock()
        self._pooled = bool(self._attribute("MEMORY_POOLS_SUPPORTED"))
        if self._pooled:
            pool = self._call("cuDeviceGetDefaultMemPool", self._device)
            threshold = cu.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
            self._call("cuMemPoolSetAttribute", pool, threshold, cu.cuuint64_t(_KEPT_POOL_BYTES))

    def _attribute(self, name: str) -> int:
        attribute = getattr(self._cu.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        value: int = self._call("cuDeviceGetAttribute", attribute, self._device)
        return value

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the driver and return its result, alone or as a tuple."""
        try:
            error, *results = getattr(self._cu, name)(*arguments)
        except RuntimeError as e:  # the package does not find the function in the driver
            raise DeviceError(
                f"the NVIDIA driver cannot do what Lamina needs: {e}", hint="install a newer driver"
            ) from e
        if error != self._success:
            self._fail(name, error)
        return results[0] if len(results) == 1 else tuple(results)

    def _fail(self, name: str, error: Any) -> None:
        text = f"{name} failed on {self.name}: {_describe(self._cu, error)}"
        if error.name == "CUDA_ERROR_OUT_OF_MEMORY":
            raise OutOfMemory(text)
        if error.name.removeprefix("CUDA_ERROR_") in _STICKY:
            cause = next((t for name, t in _faults.items() if name != self.name), "")
            _faults.setdefault(self.name, text)
            self.lost = self.lost or (f"{cause}, and then {text}" if cause else text)
            self._raise_lost()
        raise DeviceError(text)

    def _raise_lost(self) -> None:
        raise DeviceError(
            f"{self.name} is lost to this process: {self.lost}",
            hint="restart the process; LAMINA_CUDA_CHECK=1 names the step that fails",
        )

    def enter(self) -> bool:
        """Make the device current in this thread; returns whether ``leave`` has to undo it."""
        if self.lost:
            self._raise_lost()
        number = int(self._cu.cuCtxGetCurrent()[1])
        if number == self._context_number:
            return False
        if not number and not self.ordinal and self._is_primary:
            # The first GPU is what every library takes when a thread has chosen none.
            self._call("cuCtxSetCurrent", self._context)
            return False
        self._call("cuCtxPushCurrent", self._context)
        return True

    def leave(self, entered: bool) -> None:
        """Make the device current that was so before ``enter``."""
        if entered:
            self._cu.cuCtxPopCurrent()

    def allocate(self, size_bytes: int, stream: int) -> int:
        """Return memory that work on ``stream`` may use; raises OutOfMemory."""
        if self._pooled:
            return int(self._call("cuMemAllocAsync", size_bytes, stream))
        return int(self._call("cuMemAlloc", size_bytes))

    def free(self, pointer: int, size_bytes: int, stream: int) -> None:
        """Give memory back once the work on ``stream`` so far is done."""
        if self._pooled:
            self._call("cuMemFreeAsync", pointer, stream)
        else:  # waits for the whole device
            self._call("cuMemFree", pointer)

    def allocate_host(self, size_bytes: int) -> int:
        """Return page-locked host memory."""
        return int(self._call("cuMemHostAlloc", size_bytes, self._cu.CU_MEMHOSTALLOC_PORTABLE))

    def free_host(self, pointer: int) -> None:
        """Give page-locked memory back."""
        self._call("cuMemFreeHost", pointer)

    def copy(self, destination: int, source: int, size_bytes: int, stream: int) -> None:
        """Copy between any two places of device or host memory, in the order of the stream."""
        self._call("cuMemcpyAsync", destination, source, size_bytes, stream)

    def clear(self, pointer: int, size_bytes: int, stream: int) -> None:
        """Set memory to zero, in the order of the stream."""
        self._call("cuMemsetD8Async", pointer, 0, size_bytes, stream)

    def facts(self) -> DeviceFacts:
        """Return what the device tells of itself."""
        return DeviceFacts(
            multiprocessors=self._attribute("MULTIPROCESSOR_COUNT"),
            shared_bytes=self._attribute("MAX_SHARED_MEMORY_PER_MULTIPROCESSOR"),
            bus_bits=self._attribute("GLOBAL_MEMORY_BUS_WIDTH"),
            clock_khz=self._attribute("CLOCK_RATE"),
            memory_clock_khz=self._attribute("MEMORY_CLOCK_RATE"),
            ecc=bool(self._attribute("ECC_ENABLED")),
        )

    def memory_info(self) -> tuple[int, int]:
        """Return free and total bytes of the device."""
        free, total = self._call("cuMemGetInfo")
        return free, total

    def ordinal_of(self, pointer: int) -> int | None:
        """Return the number of the device that an address belongs to, None for host memory."""
        attributes = self._cu.CUpointer_attribute
        query = self._cu.cuPointerGetAttribute
        error, kind = query(attributes.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer)
        if error != self._success or int(kind) == int(self._cu.CUmemorytype.CU_MEMORYTYPE_HOST):
            return None
        error, number = query(attributes.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer)
        return int(number) if error == self._success else None

    def reaches(self, pointer: int) -> bool:
        """Whether kernels can read an address: of a device, of page-locked or managed memory."""
        kind = self._cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
        error, _ = self._cu.cuPointerGetAttribute(kind, pointer)
        return error == self._success or bool(self._attribute("PAGEABLE_MEMORY_ACCESS"))

    def stream(self) -> int:
        """Return a new stream; it waits for the default stream, and that one for it."""
        return int(self._call("cuStreamCreate", 0))

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._call("cuStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until the work on a stream is done."""
        (error,) = self._cu.cuStreamSynchronize(stream)
        if error != self._success:
            self._fail("cuStreamSynchronize", error)

    def is_capturing(self, stream: int) -> bool:
        """Whether work on a stream goes into a graph that the user records."""
        error, status = self._cu.cuStreamIsCapturing(stream)
        return bool(error == self._success and int(status))

    def event(self, *, timing: bool = False) -> Handle:
        """Return a new event."""
        flags = self._cu.CUevent_flags
        flag = flags.CU_EVENT_DEFAULT if timing else flags.CU_EVENT_DISABLE_TIMING
        return self._call("cuEventCreate", int(flag))

    def destroy_event(self, event: Handle) -> None:
        """Give an event back."""
        self._call("cuEventDestroy", event)

    def record(self, event: Handle, stream: int) -> None:
        """Let an event stand for the work on a stream so far."""
        (error,) = self._cu.cuEventRecord(event, stream)
        if error != self._success:
            self._fail("cuEventRecord", error)

    def wait(self, stream: int, event: Handle) -> None:
        """Let later work on a stream wait for an event."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def microseconds(self, begin: Handle, end: Handle) -> float:
        """Return the time between two events that have happened."""
        return 1e3 * float(self._call("cuEventElapsedTime", begin, end))

    def load(self, image: bytes) -> Handle:
        """Load a module of machine code."""
        return self._call("cuModuleLoadData", image)

    def unload(self, module: Handle) -> None:
        """Give a module back."""
        self._call("cuModuleUnload", module)

    def function(self, module: Handle, name: str, shared_bytes: int) -> Handle:
        """Return a kernel that may be launched with this much dynamic shared memory."""
        function = self._call("cuModuleGetFunction", module, name.encode())
        if shared_bytes > _STATIC_SHARED_BYTES:
            attribute = self._cu.CUfunction_attribute
            most = attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._call("cuFuncSetAttribute", function, most, shared_bytes)
        return function

    def launch(self, launch: KernelLaunch, stream: int) -> None:
        """Start a kernel in the order of a stream."""
        config = self._cu.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = launch.grid
        config.blockDimX = launch.threads
        config.blockDimY, config.blockDimZ = launch.more_threads
        config.sharedMemBytes, config.hStream = launch.shared_bytes, stream
        attributes = self._launch_attributes(launch)
        config.attrs, config.numAttrs = attributes, len(attributes)
        self._call("cuLaunchKernelEx", config, launch.function, self._arguments(launch), 0)

    def _launch_attributes(self, launch: KernelLaunch) -> list[Any]:
        kinds, attributes = self._cu.CUlaunchAttributeID, []
        if launch.dependent:
            dependent = self._cu.CUlaunchAttribute()
            dependent.id = kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            dependent.value.programmaticStreamSerializationAllowed = 1
            attributes.append(dependent)
        if launch.cluster is not None:
            cluster = self._cu.CUlaunchAttribute()
            cluster.id = kinds.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
            _set_cluster(cluster.value, launch.cluster)
            attributes.append(cluster)
        return attributes

    def graph(self) -> Handle:
        """Return an empty graph."""
        return self._call("cuGraphCreate", 0)

    def add_kernel(
        self, graph: Handle, launch: KernelLaunch, after: Sequence[Handle], *, programmatic: bool
    ) -> Handle:
        """Add a launch behind other nodes and return its node."""
        cu = self._cu
        full = [] if programmatic else list(after)
        arguments = self._arguments(launch)
        params = self._node(launch, arguments)
        node = self._call("cuGraphAddKernelNode", graph, full, len(full), params)
        if launch.cluster is not None:
            value = cu.CUkernelNodeAttrValue()
            _set_cluster(value, launch.cluster)
            kind = cu.CU_KERNEL_NODE_ATTRIBUTE_CLUSTER_DIMENSION
            self._call("cuGraphKernelNodeSetAttribute", node, kind, value)
        if programmatic and after:
            edge = cu.CUgraphEdgeData()
            edge.from_port = int(cu.CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC)
            edge.type = cu.CUgraphDependencyType.CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC
            edges = [edge] * len(after)
            nodes = [node] * len(after)
            self._call("cuGraphAddDependencies", graph, list(after), nodes, edges, len(after))
        return node

    def _node(self, launch: KernelLaunch, arguments: _Arguments) -> Any:
        """Return the launch as a node; ``arguments`` must live until the driver has read it."""
        node = self._cu.CUDA_KERNEL_NODE_PARAMS()
        node.func = launch.function
        node.gridDimX, node.gridDimY, node.gridDimZ = launch.grid
        node.blockDimX = launch.threads
        node.blockDimY, node.blockDimZ = launch.more_threads
        node.sharedMemBytes = launch.shared_bytes
        node.kernelParams = arguments
        node.extra = 0
        return node

    def capture(self, work: Callable[[int], None]) -> Handle:
        """Return a graph of what ``work`` puts on the stream that it is given."""
        # The first call of a library's kernel loads it, which stricter modes forbid.  While a
        # stream that waits for the default stream is captured, nobody could use the default one.
        mode = self._cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        alone = int(self._cu.CUstream_flags.CU_STREAM_NON_BLOCKING)
        stream = int(self._call("cuStreamCreate", alone))
        try:
            self._call("cuStreamBeginCapture", stream, mode)
            try:
                work(stream)
            except BaseException:
                error, graph = self._cu.cuStreamEndCapture(stream)
                if error == self._success:
                    self._cu.cuGraphDestroy(graph)
                raise
            return self._call("cuStreamEndCapture", stream)
        finally:
            self.destroy_stream(stream)

    def add_graph(self, graph: Handle, part: Handle, after: Sequence[Handle]) -> Handle:
        """Add a copy of a graph behind other nodes and return its node."""
        return self._call("cuGraphAddChildGraphNode", graph, list(after), len(after), part)

    def add_record(self, graph: Handle, event: Handle, after: Sequence[Handle]) -> Handle:
        """Let an event happen in each run of a graph, behind other nodes; return its node."""
        return self._call("cuGraphAddEventRecordNode", graph, list(after), len(after), event)

    def instantiate(self, graph: Handle) -> Handle:
        """Return an executable form of a graph, which must live as long as it."""
        return self._call("cuGraphInstantiate", graph, 0)

    def update_kernel(self, executable: Handle, node: Handle, launch: KernelLaunch) -> None:
        """Give a node of an executable graph other arguments from its next launch on."""
        arguments = self._arguments(launch)
        params = self._node(launch, arguments)
        self._call("cuGraphExecKernelNodeSetParams", executable, node, params)

    def update_graph(self, executable: Handle, node: Handle, part: Handle) -> None:
        """Put a graph of the same shape in the place of an added one from the next launch on."""
        self._call("cuGraphExecChildGraphNodeSetParams", executable, node, part)

    def launch_graph(self, executable: Handle, stream: int) -> None:
        """Run an executable graph in the order of a stream."""
        (error,) = self._cu.cuGraphLaunch(executable, stream)
        if error != self._success:
            self._fail("cuGraphLaunch", error)

    def destroy_graph(self, graph: Handle, executable: Handle | None) -> None:
        """Give a graph and its executable form back."""
        if executable is not None:
            self._call("cuGraphExecDestroy", executable)
        self._call("cuGraphDestroy", graph)

    def library(self, name: str) -> Library:
        """Return a library of kernels for this device; DeviceError says what is missing."""
        with self._library_lock:
            if name not in self._libraries:
                self._libraries[name] = open_library(name, self)
            return self._libraries[name]

    def _arguments(self, launch: KernelLaunch) -> _Arguments:
        if not launch.maps:
            return launch.values, tuple([_TYPES[t] for t in launch.types])
        maps = iter(launch.maps)
        all: list[tuple[Any, Any]] = []
        for value, type in zip(launch.values, launch.types, strict=True):
            if type == "m":
                map = next(maps)
                all += passed(map, self._encoded(map, value))
            else:
                all.append((value, _TYPES[type]))
        return tuple([v for v, _ in all]), tuple([t for _, t in all])

    def _encoded(self, map: TensorMap, address: int) -> EncodedMap:
        if self._encode is None:
            name = b"cuTensorMapEncodeTiled"
            self._encode = Encoder(int(self._call("cuGetProcAddress", name, _MAPS_SINCE, 0)[0]))
        error, encoded = self._encode(map, address)
        if error:
            self._fail(f"cuTensorMapEncodeTiled of {map} at {address}", self._cu.CUresult(error))
        return encoded


def _set_cluster(value: Any, cluster: tuple[int, int, int]) -> None:
    value.clusterDim.x, value.clusterDim.y, value.clusterDim.z = cluster
