"""A stand-in for ``libcudart.so``, for programs that load that library themselves.

Its functions are those of ``cuda.bindings.runtime``: on a GPU the real ones, else the stand-ins.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from cuda.bindings import runtime

from lamina_stand_ins.shared_object import TABLE, write_library

_NAME = "libcudart.so"
_NO_DEVICE = 100
"""What the functions return in a process that only inherited the library's folder."""

_TYPES: dict[str, Any] = {
    "p": ctypes.c_void_p,
    "n": ctypes.c_size_t,
    "i": ctypes.c_int,
    "f": ctypes.c_float,
}
_FUNCTIONS = {
    "cudaMalloc": ("p", "n"),
    "cudaMallocAsync": ("p", "np"),
    "cudaMallocHost": ("p", "n"),
    "cudaFree": ("", "p"),
    "cudaFreeAsync": ("", "pp"),
    "cudaFreeHost": ("", "p"),
    "cudaMemcpy": ("", "ppni"),
    "cudaMemcpyAsync": ("", "ppnip"),
    "cudaMemset": ("", "pin"),
    "cudaMemsetAsync": ("", "pinp"),
    "cudaMemGetInfo": ("nn", ""),
    "cudaStreamCreate": ("p", ""),
    "cudaStreamCreateWithFlags": ("p", "i"),
    "cudaStreamSynchronize": ("", "p"),
    "cudaStreamQuery": ("", "p"),
    "cudaStreamWaitEvent": ("", "ppi"),
    "cudaStreamDestroy": ("", "p"),
    "cudaStreamBeginCapture": ("", "pi"),
    "cudaStreamEndCapture": ("", "p"),
    "cudaGraphInstantiate": ("p", "pn"),
    "cudaGraphInstantiateWithFlags": ("p", "pn"),
    "cudaGraphUpload": ("", "pp"),
    "cudaGraphLaunch": ("", "pp"),
    "cudaGraphDestroy": ("", "p"),
    "cudaGraphExecDestroy": ("", "p"),
    "cudaEventCreate": ("p", ""),
    "cudaEventCreateWithFlags": ("p", "i"),
    "cudaEventRecord": ("", "pp"),
    "cudaEventSynchronize": ("", "p"),
    "cudaEventQuery": ("", "p"),
    "cudaEventElapsedTime": ("f", "pp"),
    "cudaEventDestroy": ("", "p"),
    "cudaDeviceSynchronize": ("", ""),
    "cudaSetDevice": ("", "i"),
    "cudaGetDevice": ("i", ""),
    "cudaGetDeviceCount": ("i", ""),
    "cudaRuntimeGetVersion": ("i", ""),
    "cudaDriverGetVersion": ("i", ""),
    "cudaGetLastError": ("", ""),
    "cudaPeekAtLastError": ("", ""),
}
"""Types of results, which C gets through pointers in front, and of arguments."""

_kept: list[Any] = []
"""The folder, the library and its callbacks, which live as long as the process."""


def preload() -> bool:
    """Load the stand-in, so that programs which look for ``libcudart.so`` find it; False elsewhere.

    On a GPU the library itself goes first, where the loader finds it.  The loader knows a library
    by the name it was linked with.  Programs that search folders find it first on
    ``LD_LIBRARY_PATH``, in a folder that is there as long as the process.
    """
    if _kept:
        return True
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    if not getattr(runtime, "IS_STAND_IN", False) and _is_installed():
        return False
    folder = tempfile.TemporaryDirectory(prefix="lamina_cudart")
    path = Path(folder.name) / _NAME
    try:
        path.write_bytes(write_library(_NAME, list(_FUNCTIONS), _NO_DEVICE))
        library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    callbacks = [_callback(name, *types) for name, types in _FUNCTIONS.items()]
    table = (ctypes.c_void_p * len(callbacks)).in_dll(library, TABLE)
    for number, callback in enumerate(callbacks):
        table[number] = ctypes.cast(callback, ctypes.c_void_p).value
    others = os.environ.get("LD_LIBRARY_PATH", "")
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [folder.name, others]))
    _kept.extend([folder, library, *callbacks])
    return True


def _is_installed() -> bool:
    try:
        ctypes.CDLL(_NAME)
    except OSError:
        return False
    return True


def _callback(name: str, results: str, arguments: str) -> Any:
    """Return a C function that calls a function of CUDA's Python bindings."""
    function = getattr(runtime, name)
    kinds = [ctypes.c_void_p] * len(results) + [_TYPES[t] for t in arguments]
    targets = [ctypes.POINTER(_TYPES[t]) for t in results]

    def call(*given: Any) -> int:
        error, *values = function(*(x or 0 for x in given[len(results) :]))
        if int(error) == 0:
            for kind, place, value in zip(targets, given, values, strict=False):
                number = value if isinstance(value, float) else int(value)
                ctypes.cast(place, kind)[0] = number
        return int(error)

    return ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(call)
