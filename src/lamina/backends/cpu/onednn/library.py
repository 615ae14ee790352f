"""Finds, loads and describes oneDNN; turns its status codes into errors.

The library is the one that the distribution ``onednn-cpu-gomp`` installs, or any ``libdnnl.so.3``
whose path the caller gives.  It computes on the threads of the system's ``libgomp.so.1``.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

from lamina.backends.cpu.onednn.enums import ENGINE_CPU, STATUS, STREAM_IN_ORDER
from lamina.backends.cpu.onednn.signatures import declare
from lamina.errors import DeviceError

DISTRIBUTION: Final = "onednn-cpu-gomp"
LIBRARY_NAME: Final = "libdnnl.so.3"
OPENMP_NAME: Final = "libgomp.so.1"

_AVX2_VNNI: Final = 0xF
_AVX2_VNNI_2: Final = 0x1F
_AVX512_CORE: Final = 0x27
_AVX512_VNNI: Final = 0x67
_AVX512_BF16: Final = 0xE7
_ISA_NAMES: Final = (
    (0x1FEF, "avx512_core_amx_fp16"),
    (0xFEF, "avx512_core_amx"),
    (0x1EF, "avx512_core_fp16"),
    (_AVX512_BF16, "avx512_core_bf16"),
    (_AVX512_VNNI, "avx512_core_vnni"),
    (_AVX512_CORE, "avx512_core"),
    (_AVX2_VNNI_2, "avx2_vnni_2"),
    (_AVX2_VNNI, "avx2_vnni"),
    (0x7, "avx2"),
    (0x3, "avx"),
    (0x1, "sse41"),
)


class OneDnnError(DeviceError):
    """oneDNN refused a call; ``status`` is its reason in words, ``call`` the function."""

    def __init__(self, call: str, status: int) -> None:
        self.call = call
        self.status = STATUS.get(status, f"status {status}")
        super().__init__(f"oneDNN: {call} returned {status} ({self.status})")


class _Version(ctypes.Structure):
    _fields_: ClassVar = [
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
        ("patch", ctypes.c_int),
        ("hash", ctypes.c_char_p),
        ("cpu_runtime", ctypes.c_uint),
        ("gpu_runtime", ctypes.c_uint),
    ]


class ExecutionArgument(ctypes.Structure):
    """``dnnl_exec_arg_t``: the number of an argument and its memory object."""

    _fields_: ClassVar = [("code", ctypes.c_int), ("memory", ctypes.c_void_p)]


class Library:
    """A loaded oneDNN with its one CPU engine; safe to use from many threads."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._openmp = _open(OPENMP_NAME, "install it: apt-get install libgomp1")
        self._dnnl = _open(
            path,
            f"install {DISTRIBUTION} (pip install {DISTRIBUTION}) and libgomp1, libstdc++6 "
            "(apt-get install libgomp1 libstdc++6)",
        )
        self._functions: dict[str, Any] = {}
        self._openmp.omp_get_max_threads.restype = ctypes.c_int
        self._openmp.omp_set_num_threads.restype = None
        self.version = self._read_version()
        self.engine = self.create("engine_create", ENGINE_CPU, 0)
        self._stream_of_thread = threading.local()
        self._cache_lock = threading.Lock()

    def function(self, name: str) -> Any:
        """Return the C function ``dnnl_<name>``, typed; raises DeviceError where it is absent."""
        function = self._functions.get(name)
        if function is None:
            try:
                function = declare(self._dnnl, name)
            except AttributeError as e:
                raise DeviceError(f"{self.path} does not export dnnl_{name}") from e
            self._functions[name] = function
        return function

    def call(self, name: str, *arguments: Any) -> None:
        """Call ``dnnl_<name>``; raises OneDnnError unless its status is success."""
        status = self.function(name)(*arguments)
        if status:
            raise OneDnnError(f"dnnl_{name}", status)

    def create(self, name: str, *arguments: Any) -> int:
        """Call a function whose first argument receives a new handle, and return the handle."""
        result = ctypes.c_void_p()
        status = self.function(name)(ctypes.byref(result), *arguments)
        if status:
            raise OneDnnError(f"dnnl_{name}", status)
        return result.value or 0

    def address(self, name: str) -> int:
        """Return the address of ``dnnl_<name>`` for native code to call."""
        return ctypes.cast(self.function(name), ctypes.c_void_p).value or 0

    def openmp_address(self, name: str) -> int:
        """Return the address of a function of the same OpenMP runtime (``GOMP_parallel``, …)."""
        return ctypes.cast(self._openmp[name], ctypes.c_void_p).value or 0

    def set_threads(self, count: int) -> None:
        """Make primitives that the calling thread creates or runs use ``count`` threads.

        OpenMP keeps this number per calling thread: call it once on every thread that runs.
        """
        self._openmp.omp_set_num_threads(ctypes.c_int(count))

    @property
    def threads(self) -> int:
        """Number of threads that the calling thread's primitives use."""
        return int(self._openmp.omp_get_max_threads())

    @contextmanager
    def using_threads(self, count: int | None) -> Iterator[None]:
        """Set the number of threads for the block; None leaves it as it is."""
        if count is None:
            yield
            return
        before = self.threads
        self.set_threads(count)
        try:
            yield
        finally:
            self.set_threads(before)

    @cached_property
    def isa(self) -> str:
        """Instruction set that primitives are generated for, such as ``avx512_core_bf16``."""
        bits = self._isa_bits
        return next((name for mask, name in _ISA_NAMES if bits & mask == mask), "sse41")

    @property
    def has_exact_int8(self) -> bool:
        """Whether integer sums are exact.

        Without VNNI instructions pairs of u8·i8 products saturate at 16 bits, unless weights keep
        to seven bits; and weights that meet i8 activations are halved and rounded.
        """
        return any(self._isa_bits & mask == mask for mask in (_AVX512_VNNI, _AVX2_VNNI))

    @property
    def has_bf16(self) -> bool:
        """Whether bf16 primitives exist; ``has_native_bf16`` says whether they are fast."""
        return any(self._isa_bits & mask == mask for mask in (_AVX512_CORE, _AVX2_VNNI_2))

    @property
    def has_native_bf16(self) -> bool:
        """Whether the processor multiplies bf16 numbers itself, at twice the rate of f32."""
        return any(self._isa_bits & mask == mask for mask in (_AVX512_BF16, _AVX2_VNNI_2))

    @cached_property
    def _isa_bits(self) -> int:
        return int(self.function("get_effective_cpu_isa")())

    @cached_property
    def tags(self) -> dict[str, int]:
        """Number of every named memory format that the library knows (``aBcd16b`` → 39, …)."""
        to_name = self.function("fmt_tag2str")
        result: dict[str, int] = {}
        for value in range(1, 4096):
            name = to_name(value).decode()
            if name.startswith("unknown"):
                break
            result[name] = value
        return result

    def stream(self) -> Stream:
        """Return a new in-order stream; an execution context owns one."""
        return Stream(self)

    @property
    def thread_stream(self) -> Stream:
        """The calling thread's own stream, made on first use."""
        stream: Stream | None = getattr(self._stream_of_thread, "stream", None)
        if stream is None:
            stream = self._stream_of_thread.stream = Stream(self)
        return stream

    def set_cache_capacity(self, primitives: int) -> None:
        """Keep at most this many generated primitives for reuse by equal descriptions."""
        self.call("set_primitive_cache_capacity", primitives)

    @contextmanager
    def without_cache(self) -> Iterator[None]:
        """Forget the generated primitives and keep no new ones during the block.

        A description that equals one in the cache cannot step to its next implementation (seen
        in 3.2), so asking for another implementation needs an empty cache.
        """
        with self._cache_lock:
            capacity = ctypes.c_int()
            self.call("get_primitive_cache_capacity", ctypes.byref(capacity))
            self.set_cache_capacity(0)
            try:
                yield
            finally:
                self.set_cache_capacity(capacity.value)

    def _read_version(self) -> tuple[int, int, int]:
        pointer = self.function("version")()
        version = ctypes.cast(pointer, ctypes.POINTER(_Version)).contents
        if version.major != 3:
            raise DeviceError(
                f"{self.path} is oneDNN {version.major}.{version.minor}, but version 3 is needed",
                hint=f"remove LAMINA_ONEDNN_LIBRARY, or install {DISTRIBUTION}",
            )
        return version.major, version.minor, version.patch


class Stream:
    """An in-order queue of primitives; freed with its last reference."""

    def __init__(self, library: Library) -> None:
        self.pointer = library.create("stream_create", library.engine, STREAM_IN_ORDER)
        release(self, library, "stream_destroy", [self.pointer])


def release(owner: object, library: Library, destroy: str, pointers: list[int]) -> None:
    """Destroy these handles when ``owner`` dies, but not while the interpreter shuts down.

    The list may still grow after the call.  At exit the process gives everything back anyway,
    and the library may be gone already.
    """
    finalizer = weakref.finalize(owner, _destroy_all, library.function(destroy), pointers)
    finalizer.atexit = False


def _destroy_all(destroy: Callable[[int], int], pointers: list[int]) -> None:
    for pointer in pointers:
        destroy(pointer)


_loaded: dict[str, Library] = {}
_lock = threading.Lock()


def load(path: str | Path | None = None) -> Library:
    """Return the library at ``path``, or the installed distribution's; each is loaded once.

    Raises DeviceError that names the missing package where the library, or what it needs of the
    system, is absent.
    """
    with _lock:
        key = str(path) if path else ""
        if key not in _loaded:
            _loaded[key] = Library(str(path) if path else installed_path())
        return _loaded[key]


def installed_path() -> str:
    """Return where the distribution installed its library; raises DeviceError where it is not.

    Reads the distribution's list of files itself: ``importlib.metadata`` would do the same, but
    importing it takes longer than loading oneDNN and all of ResNet-50's primitives.
    """
    hint = f"install it: pip install {DISTRIBUTION}"
    pattern = f"{DISTRIBUTION.replace('-', '_')}-*.dist-info/RECORD"
    for folder in map(Path, sys.path):
        for record in folder.glob(pattern):
            for line in record.read_text().splitlines():
                file = folder / line.split(",")[0]
                if file.name == LIBRARY_NAME:
                    return _existing(file.resolve(), hint)
            raise DeviceError(f"{record} lists no {LIBRARY_NAME}", hint=hint)
    raise DeviceError(
        f"the CPU backend needs oneDNN, but {DISTRIBUTION} is not installed", hint=hint
    )


def _existing(path: Path, hint: str) -> str:
    if not path.exists():
        raise DeviceError(f"{DISTRIBUTION} lists {path}, but the file is not there", hint=hint)
    return str(path)


def _open(name: str, hint: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError as e:
        raise DeviceError(f"cannot load {name}: {e}", hint=hint) from e
