"""cuBLASLt's C interface through ctypes.

Only a dozen functions are needed, so no binding package is: those that exist bring far more than
this file is long.  Names and numbers are those of ``cublasLt.h``, ``cublas_api.h`` and
``library_types.h`` (versions 12 and 13 agree in all that is used here).
"""

from __future__ import annotations

import ctypes
import weakref
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any, Final

from lamina.errors import DeviceError

ALGORITHM_BYTES: Final = 64

TYPES: Final = {"f32": 0, "f16": 2, "bf16": 14}
"""``cudaDataType`` of element types."""
COMPUTE: Final = {"f32": 68, "tf32": 77}
"""``CUBLAS_COMPUTE_32F`` and ``CUBLAS_COMPUTE_32F_FAST_TF32``."""
SCALE_TYPE: Final = TYPES["f32"]

RELU: Final = 2
BIAS: Final = 4
GELU: Final = 32
NO_EPILOGUE: Final = 1
"""``cublasLtEpilogue_t``; its values with an activation and a bias are sums of these."""

NO_TRANSPOSE: Final = 0
TRANSPOSE: Final = 1


class LayoutAttribute:
    """``cublasLtMatrixLayoutAttribute_t``."""

    BATCH_COUNT: Final = 5
    STRIDED_BATCH_OFFSET: Final = 6


class MatmulAttribute:
    """``cublasLtMatmulDescAttributes_t``."""

    TRANSA: Final = 3
    TRANSB: Final = 4
    EPILOGUE: Final = 7
    BIAS_POINTER: Final = 8


class PreferenceAttribute:
    """``cublasLtMatmulPreferenceAttributes_t``."""

    MAX_WORKSPACE_BYTES: Final = 1
    MIN_ALIGNMENT_BYTES: Final = (5, 6, 7, 8)
    """For the four matrices."""


CONFIG_ATTRIBUTES: Final = {
    "": (0, 4), "t": (1, 4), "s": (6, 4), "k": (2, 4), "r": (3, 4),
    "z": (4, 4), "o": (5, 4), "i": (7, 2), "c": (8, 2),
}  # fmt: skip
"""Attribute and bytes (``cublasLtMatmulAlgoConfigAttributes_t``) by the letter that a name has for
it: number, tile, stages, split of the depth, reduction, swizzling, option, inner and cluster shape.
"""


class Algorithm(ctypes.Structure):
    """``cublasLtMatmulAlgo_t``: opaque, and may be stored."""

    _fields_ = (("data", c_uint64 * 8),)


class HeuristicResult(ctypes.Structure):
    """``cublasLtMatmulHeuristicResult_t``."""

    _fields_ = (
        ("algorithm", Algorithm),
        ("workspace_bytes", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


_H: Final = c_void_p
_MATRICES: Final = (_H, _H, _H, _H)
_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "cublasLtCreate": (POINTER(_H),),
    "cublasLtDestroy": (_H,),
    "cublasLtMatrixLayoutCreate": (POINTER(_H), c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatrixLayoutDestroy": (_H,),
    "cublasLtMatrixLayoutSetAttribute": (_H, c_int, c_void_p, c_size_t),
    "cublasLtMatmulDescCreate": (POINTER(_H), c_int, c_int),
    "cublasLtMatmulDescDestroy": (_H,),
    "cublasLtMatmulDescSetAttribute": (_H, c_int, c_void_p, c_size_t),
    "cublasLtMatmulPreferenceCreate": (POINTER(_H),),
    "cublasLtMatmulPreferenceDestroy": (_H,),
    "cublasLtMatmulPreferenceSetAttribute": (_H, c_int, c_void_p, c_size_t),
    "cublasLtMatmulAlgoGetHeuristic": (
        _H, _H, *_MATRICES, _H, c_int, POINTER(HeuristicResult), POINTER(c_int),
    ),
    "cublasLtMatmulAlgoCheck": (
        _H, _H, *_MATRICES, POINTER(Algorithm), POINTER(HeuristicResult),
    ),
    "cublasLtMatmulAlgoConfigGetAttribute": (
        POINTER(Algorithm), c_int, c_void_p, c_size_t, POINTER(c_size_t),
    ),
    "cublasLtMatmul": (
        _H, _H, c_void_p, c_void_p, _H, c_void_p, _H, c_void_p, c_void_p, _H, c_void_p, _H,
        POINTER(Algorithm), c_void_p, c_size_t, c_void_p,
    ),
}  # fmt: skip


class Api:
    """The functions of one shared object."""

    def __init__(self, shared_object: ctypes.CDLL) -> None:
        self._functions: dict[str, Any] = {}
        for name, arguments in _SIGNATURES.items():
            function = getattr(shared_object, name)
            function.argtypes, function.restype = arguments, c_int
            self._functions[name] = function
        version = shared_object.cublasLtGetVersion
        version.argtypes, version.restype = (), c_size_t
        self.version = str(version())
        self._describe = shared_object.cublasLtGetStatusString
        self._describe.argtypes, self._describe.restype = (c_int,), c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function; raises DeviceError for what it refuses."""
        status = self._functions[name](*arguments)
        if status:
            text = (self._describe(status) or b"").decode()
            raise DeviceError(f"{name} failed: status {status} ({text})")

    def accepts(self, name: str, *arguments: Any) -> bool:
        """Call a function and return whether it succeeded."""
        return not self._functions[name](*arguments)

    def created(self, kind: str, *arguments: Any) -> Object:
        """Return a new object of ``cublasLt{kind}Create``, destroyed with the last reference."""
        handle = c_void_p()
        self.call(f"cublasLt{kind}Create", byref(handle), *arguments)
        return Object(self, kind, handle)

    def configuration(self, algorithm: Algorithm) -> str:
        """Return the settings of an algorithm as text: different ones have different texts."""
        parts = []
        for letter, (attribute, size) in CONFIG_ATTRIBUTES.items():
            value, written = c_uint64(), c_size_t()
            self.call(
                "cublasLtMatmulAlgoConfigGetAttribute",
                byref(algorithm), attribute, byref(value), size, byref(written),
            )  # fmt: skip
            if value.value or not letter:
                parts.append(f"{letter}{value.value}")
        return " ".join(parts)


class Object:
    """A descriptor of the library."""

    def __init__(self, api: Api, kind: str, handle: c_void_p) -> None:
        self._api, self._kind, self.handle = api, kind, handle
        destroy = f"cublasLt{kind}Destroy"
        weakref.finalize(self, api.accepts, destroy, handle).atexit = False

    def set(self, attribute: int, value: Any) -> None:
        """Give an attribute a value, which is a number of ctypes."""
        name = f"cublasLt{self._kind}SetAttribute"
        self._api.call(name, self.handle, attribute, byref(value), ctypes.sizeof(value))
