"""Matrix products by cuBLASLt, with what follows them.

A problem (all sizes and strides in elements; matrices lie row after row unless said otherwise):

===================== =================================================================
``dtype``             element type of all operands: f16, bf16, f32
``compute``           ``f32``, or ``tf32`` where factors may be rounded to 11 bits
``rows columns depth`` y[rows, columns] = a[rows, depth] @ b[depth, columns]
``batch``             how many such products, each ``X_batch`` behind the one before
``a_turned b_turned`` whether the matrix lies column after column instead
``X_stride``          from a row (of a turned matrix: a column) to the next, X in a b c y
``activation``        ``relu``, ``gelu_tanh`` or None, applied to ``a @ b + bias + c``
``algorithm``         64 bytes in hexadecimal, as version ``version`` of the library made them
``workspace_bytes``   what the algorithm may use
===================== =================================================================

Operands are a, b and y, and where present bias[columns] and c[rows, columns].
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from ctypes import byref, c_float, c_int, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Final

from lamina.backends.cuda.device import Device, current
from lamina.backends.cuda.library.cublaslt_api import (
    ALGORITHM_BYTES,
    BIAS,
    COMPUTE,
    GELU,
    NO_EPILOGUE,
    NO_TRANSPOSE,
    RELU,
    SCALE_TYPE,
    TRANSPOSE,
    TYPES,
    Algorithm,
    Api,
    HeuristicResult,
    LayoutAttribute,
    MatmulAttribute,
    Object,
    PreferenceAttribute,
)
from lamina.backends.cuda.library.shared_objects import open_shared_object
from lamina.backends.cuda.primitive import Problem
from lamina.errors import DeviceError, PlanError

NAME: Final = "cublaslt"
FIX: Final = "install cuBLASLt: pip install 'lamina[cuda-libraries]'"
_VERSIONS: Final = (13, 12)
_PACKAGES: Final = ("nvidia-cublas", "nvidia-cublas-cu12")
_KEPT_PROPOSALS: Final = 1024
_ALIGNMENT_BYTES: Final = 16
"""What every tensor's address is a multiple of."""

ACTIVATIONS: Final = {None: 0, "relu": RELU, "gelu_tanh": GELU}
"""The library's GELU is the approximation by a hyperbolic tangent."""


@dataclass(frozen=True)
class Found:
    """An algorithm that the library proposes: its settings as text, its bytes and workspace."""

    name: str
    algorithm: str
    workspace_bytes: int


def open_library(device: Device) -> CublasLt:
    """Load cuBLASLt for a device; DeviceError says what is missing."""
    api = Api(open_shared_object("libcublasLt", _VERSIONS, _PACKAGES, FIX))
    return CublasLt(device, api)


class CublasLt:
    """The library with a handle for one device; may be used from any thread."""

    def __init__(self, device: Device, api: Api) -> None:
        self.device, self.api, self.version = device, api, api.version
        self._proposed: OrderedDict[str, list[Found]] = OrderedDict()
        self._proposing = threading.Lock()
        with current(device):
            self._handle = api.created("")

    def operation(self, problem: Problem, names: Sequence[str], plan: bytes) -> MatmulOperation:
        """Return a product with its algorithm, or with the library's first proposal.

        That is taken where another version of the library made the algorithm, or where it does
        not do for these sizes.
        """
        described = _Described(self.api, problem, names)
        granted = int(problem["workspace_bytes"])
        with current(self.device):
            found = self._stored(described, problem, granted)
            if found is None:
                found = next(iter(self._propose(described, granted, 1)), None)
        if found is None:
            raise DeviceError(f"cuBLASLt {self.version} has no algorithm for {dict(problem)}")
        return MatmulOperation(self.api, self._handle, described, found)

    def algorithms(
        self, problem: Problem, names: Sequence[str], workspace_bytes: int, most: int
    ) -> list[Found]:
        """Return up to ``most`` algorithms for a problem, the most promising first."""
        # The layers of a network repeat each other, and being asked takes a library milliseconds.
        question = json.dumps([dict(problem), *names, workspace_bytes, most], sort_keys=True)
        with self._proposing:
            known = self._proposed.pop(question, None)
            if known is None:
                known = self._algorithms(problem, names, workspace_bytes, most)
                while len(self._proposed) >= _KEPT_PROPOSALS:
                    self._proposed.popitem(last=False)
            self._proposed[question] = known
            return list(known)

    def _algorithms(
        self, problem: Problem, names: Sequence[str], workspace_bytes: int, most: int
    ) -> list[Found]:
        described = _Described(self.api, problem, names)
        with current(self.device):
            results = self._propose(described, workspace_bytes, most)
        found: dict[str, Found] = {}
        for r in results:
            name = self.api.configuration(r.algorithm)
            found.setdefault(name, Found(name, bytes(r.algorithm).hex(), r.workspace_bytes))
        return list(found.values())

    def _stored(self, d: _Described, problem: Problem, granted: int) -> HeuristicResult | None:
        """Return the plan's own algorithm if this library runs it in the memory granted."""
        stored = bytes.fromhex(problem["algorithm"])
        if len(stored) != ALGORITHM_BYTES:
            raise PlanError(f"an algorithm of cuBLASLt has 64 bytes, not {len(stored)}")
        if problem["version"] != self.version:
            return None
        algorithm, result = Algorithm.from_buffer_copy(stored), HeuristicResult()
        arguments = (self._handle.handle, d.product.handle, *d.matrices)
        check = "cublasLtMatmulAlgoCheck"
        if not self.api.accepts(check, *arguments, byref(algorithm), byref(result)):
            return None
        if result.state or result.workspace_bytes > granted:
            return None
        result.algorithm = algorithm
        return result

    def _propose(self, d: _Described, workspace_bytes: int, most: int) -> list[HeuristicResult]:
        preference = self.api.created("MatmulPreference")
        preference.set(PreferenceAttribute.MAX_WORKSPACE_BYTES, c_uint64(workspace_bytes))
        for attribute in PreferenceAttribute.MIN_ALIGNMENT_BYTES:
            preference.set(attribute, c_uint32(_ALIGNMENT_BYTES))
        results, count = (HeuristicResult * most)(), c_int()
        accepted = self.api.accepts(
            "cublasLtMatmulAlgoGetHeuristic",
            self._handle.handle, d.product.handle, *d.matrices, preference.handle, most,
            results, byref(count),
        )  # fmt: skip
        return [r for r in results[: count.value] if not r.state] if accepted else []


class _Described:
    """A problem in the library's terms.

    The library's matrices lie column after column, so it is told y's transpose, the product of
    those of b and a: its first operand is our b, and its rows are our columns.
    """

    def __init__(self, api: Api, problem: Problem, names: Sequence[str]) -> None:
        self.names = tuple(names)
        try:
            product = api.created("MatmulDesc", COMPUTE[problem["compute"]], SCALE_TYPE)
            epilogue = ACTIVATIONS[problem["activation"]]
            rows, columns, depth = (int(problem[k]) for k in ("rows", "columns", "depth"))
            b = self._matrix(api, problem, "b", columns, depth)
            a = self._matrix(api, problem, "a", depth, rows)
            y = self._matrix(api, problem, "y", columns, rows)
            c = self._matrix(api, problem, "c", columns, rows) if "c" in names else y
        except (KeyError, ValueError, TypeError) as e:
            raise PlanError(f"a product for cuBLASLt lacks or misstates {e}") from e
        for attribute, name in ((MatmulAttribute.TRANSA, "b"), (MatmulAttribute.TRANSB, "a")):
            turned = bool(problem[f"{name}_turned"])
            product.set(attribute, c_int32(TRANSPOSE if turned else NO_TRANSPOSE))
        epilogue |= BIAS if "bias" in names else 0
        product.set(MatmulAttribute.EPILOGUE, c_uint32(epilogue or NO_EPILOGUE))
        if "bias" in names:
            # The address decides what alignment is counted with; the true one is set at a run.
            product.set(MatmulAttribute.BIAS_POINTER, c_void_p(_ALIGNMENT_BYTES))
        self.product, self._kept = product, (b, a, c, y)
        self.matrices = tuple(m.handle for m in self._kept)

    def _matrix(self, api: Api, problem: Problem, name: str, height: int, width: int) -> Object:
        """Return the layout of a matrix that is ``height`` x ``width`` before it is turned."""
        if problem.get(f"{name}_turned"):
            height, width = width, height
        type_, stride = TYPES[problem["dtype"]], int(problem[f"{name}_stride"])
        layout = api.created("MatrixLayout", type_, height, width, max(stride, height))
        if int(problem["batch"]) != 1:
            layout.set(LayoutAttribute.BATCH_COUNT, c_int32(int(problem["batch"])))
            offset = c_int64(int(problem[f"{name}_batch"]))
            layout.set(LayoutAttribute.STRIDED_BATCH_OFFSET, offset)
        return layout


class MatmulOperation:
    """A product ready to run."""

    def __init__(
        self, api: Api, handle: Object, described: _Described, found: HeuristicResult
    ) -> None:
        self._api, self._handle, self._described = api, handle, described
        self._algorithm = Algorithm.from_buffer_copy(bytes(found.algorithm))
        self.workspace_bytes = int(found.workspace_bytes)
        self._one, self._zero = c_float(1.0), c_float(0.0)
        self._lock = threading.Lock()

    def run(self, pointers: Sequence[int], workspace: int, stream: int) -> None:
        """Put the product on a stream; see :class:`lamina.backends.cuda.library.Operation`."""
        d = self._described
        at: Mapping[str, int] = dict(zip(d.names, pointers, strict=True))
        b, a, c, y = d.matrices
        beta = self._one if "c" in at else self._zero
        with self._lock:  # the address of the bias is a part of the description
            if "bias" in at:
                d.product.set(MatmulAttribute.BIAS_POINTER, c_void_p(at["bias"]))
            self._api.call(
                "cublasLtMatmul",
                self._handle.handle, d.product.handle, byref(self._one),
                at["b"], b, at["a"], a, byref(beta), at.get("c", at["y"]), c, at["y"], y,
                byref(self._algorithm), workspace, self.workspace_bytes, stream,
            )  # fmt: skip
