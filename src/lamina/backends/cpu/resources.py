"""Code, constants and library of one loaded section; shared by all contexts of an engine."""

from __future__ import annotations

import copy
import ctypes
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lamina.backends.cpu.image import LoadedImage, load_image
from lamina.backends.cpu.native import POOL_MEMBER, RUN, RUN_TIMED, address, aligned_bytes
from lamina.backends.cpu.onednn.library import Library
from lamina.backends.cpu.threads import ThreadPool, openmp_functions
from lamina.backends.cpu.weights.native import NativeFunctions
from lamina.errors import DeviceError
from lamina.plan.halves import restore
from lamina.plan.plan import Section
from lamina.runtime.driver import Allocator

NativeRun = Callable[[int], int]


class Resources:
    """What the steps of a section refer to.

    Constants are used where they lie (in the mapped plan file) when they begin at a cache line,
    else from an aligned copy.
    """

    def __init__(
        self,
        section: Section,
        library: Library | None,
        threads: int,
        allocator: Allocator | None = None,
    ) -> None:
        self.section = section
        self.allocator = allocator
        self.library = library
        self.threads = threads
        image = section.image
        self.image: LoadedImage = load_image(image.code, image.symbols, image.externals)
        self.constants = [*map(_aligned, self._contents(range(len(section.blobs))))]
        self._lock = threading.Lock()
        self._pool: ThreadPool | None = None
        run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
        self.run: NativeRun = run(self.image.address(RUN))
        self.run_timed: NativeRun = run(self.image.address(RUN_TIMED))

    def refitted(self, section: Section) -> Resources:
        """Return the same code with the constants of ``section``, sharing those that are equal."""
        other = copy.copy(self)
        other.section = section
        pairs = enumerate(zip(self.section.blobs, section.blobs, strict=True))
        changed = [i for i, (before, new) in pairs if new is not before]
        other.constants = list(self.constants)
        for i, contents in zip(changed, other._contents(changed), strict=True):
            other.constants[i] = _aligned(contents)
        return other

    def _contents(self, numbers: Sequence[int]) -> list[np.ndarray]:
        """Return some constants of the section as steps read them."""
        blobs, halves = self.section.blobs, frozenset(self.section.halves)
        found = {}
        for i in numbers:
            restored = blobs[i].restored
            found[i] = blobs[i].contents if restored is None else restored
        halved = [i for i in numbers if i in halves and blobs[i].restored is None]
        if halved:
            astype = NativeFunctions(self.image).converted
            with ThreadPoolExecutor(self.threads) as pool:
                whole = pool.map(lambda i: restore(found[i], astype), halved)
            found.update(zip(halved, whole, strict=True))
        return list(found.values())

    def allocate(self, size_bytes: int) -> np.ndarray:
        """Return uninitialized memory for a context; DeviceError when there is too little."""
        if self.allocator is None or not size_bytes:
            return aligned_bytes(size_bytes)
        return _allocated(self.allocator, size_bytes)

    def allocating(self, allocator: Allocator | None) -> Resources:
        """Return the same code and constants, with other memory for what runs need."""
        other = copy.copy(self)
        other.allocator = allocator
        return other

    @property
    def constant_bytes(self) -> int:
        """Bytes of all constants."""
        return sum(c.nbytes for c in self.constants)

    def context_functions(self) -> dict[str, int]:
        """Return the addresses that the step loop calls, by the names of its words."""
        if self.library is None:
            return self._team_functions()
        return {
            "PARALLEL": self.library.openmp_address("GOMP_parallel"),
            "THREAD_NUMBER": self.library.openmp_address("omp_get_thread_num"),
            "TEAM_SIZE": self.library.openmp_address("omp_get_num_threads"),
            "SET_THREADS": self.library.openmp_address("omp_set_num_threads"),
            "EXECUTE": self.library.address("primitive_execute"),
            "SET_HANDLE": self.library.address("memory_set_data_handle"),
        }

    def _team_functions(self) -> dict[str, int]:
        """Return what runs teams where there is no oneDNN: OpenMP, or else our own threads."""
        if self.threads < 2:
            return {}
        if functions := openmp_functions():
            return functions
        with self._lock:
            if self._pool is None and POOL_MEMBER in self.image.addresses:
                self._pool = ThreadPool(self.image, self.threads)
        return {} if self._pool is None else {"POOL": self._pool.address}


def _allocated(allocator: Allocator, size_bytes: int) -> np.ndarray:
    """Return memory of the user's, which is given back when nothing uses it any more."""
    try:
        pointer = allocator.allocate(size_bytes, 0)
    except MemoryError as e:
        raise DeviceError(f"{size_bytes} bytes of memory are not available: {e}") from e
    if pointer % 64:
        raise DeviceError(f"the allocator gave the address {pointer:#x}, not a multiple of 64")
    raw = (ctypes.c_uint8 * size_bytes).from_address(pointer)
    weakref.finalize(raw, allocator.free, pointer, size_bytes, 0).atexit = False
    return np.ctypeslib.as_array(raw)


def _aligned(array: np.ndarray) -> np.ndarray:
    if array.dtype == object:
        return array
    flat = np.ascontiguousarray(array)
    if flat.nbytes == 0 or address(flat) % 64 == 0:
        return flat
    copy = aligned_bytes(flat.nbytes)
    copy[:] = flat.reshape(-1).view(np.uint8)
    return copy.view(flat.dtype).reshape(flat.shape)
