"""Convolutions and attention by cuDNN, with engines that it proposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lamina.backends.cuda.library.cudnn import NAME, Cudnn
from lamina.backends.cuda.library.cudnn_graphs import ACTIVATIONS
from lamina.backends.cuda.primitive import Answer, Ask
from lamina.backends.cuda.request import LibraryDraft
from lamina.backends.cuda.tactics.convolution_case import Case, case_of
from lamina.backends.cuda.tactics.matmul_case import FLOATS
from lamina.backends.cuda.tactics.windows import AXES, Image
from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.layout import Layout
from lamina.errors import BuildError, LaminaError
from lamina.ir.dims import divides, is_static
from lamina.ir.graph import Node, Value
from lamina.ir.pattern import Reject
from lamina.ir.strided import StridedView
from lamina.ir.traced import dense
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.ops import Attention, QuantizedConvolution
from lamina.tactics.candidate import Candidate, Packed, Placement, Read, Role, Write
from lamina.tactics.form import Form
from lamina.tactics.heads import attention_of, operand_of, operand_view, result_view

_ALIGNMENT_BYTES: Final = 16
_MOST_ENGINES: Final = 80
_LAUNCH_MICROSECONDS: Final = 3.0
_RATE_SHARE: Final = 0.75
_ATTENTION_SHARE: Final = 0.4
"""Shares of the matrix rate that large problems reach."""
_ATTENTION_TILE: Final = 128
"""Rows and keys that are worked on together."""
_INEXACT_ENGINE: Final = "eng0"
"""Behind a matrix product, its GELU was seen to be the approximation with tanh, off by 5e-4."""
_RANK: Final = 0.01
"""Microseconds by which each proposal's estimate exceeds that of the one before."""

_Description = tuple[dict[str, Any], tuple[tuple[str, Role], ...]]
"""A problem less version and workspace, and its operands."""


class CudnnConvolution:
    """Convolution, residual, bias and activation as one graph, channels last."""

    name = f"{NAME}-conv"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer the engines that the library proposes on this machine's device."""
        case = case_of(node, target)
        if not isinstance(case, Case):
            return Reject(case) if isinstance(case, str) else None
        if why := _why_not_convolved(case):
            return Reject(why)
        w = case.work()
        operations = 2.0 * w.rows * w.columns * w.depth * w.matrices * w.taps
        compute = operations / (target.rate(w.dtype) * _RATE_SHARE)
        cost = _LAUNCH_MICROSECONDS + max(compute, w.moved_bytes / target.bytes_per_microsecond)
        offer = _Offer(self.name, case.reads, case.writes, cost)
        return _offered(offer, lambda at: _convolution(case, at), case.dense, target)


class CudnnAttention:
    """Scaled dot-product attention, on heads where they are."""

    name = f"{NAME}-attention"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer the engines that the library proposes on this machine's device."""
        core = attention_of(node)
        if core is None:
            return None
        dense = Placement(
            tuple(Layout.dense(o.tensor.shape) for o in node.inputs),
            (Layout.dense(node.output.tensor.shape),),
            "",
        )
        if why := _why_not_attended(node, core, dense):
            return Reject(why)
        batch, heads, rows, head = core.inputs[0].tensor.static_shape
        sizes = (rows, int(core.inputs[1].tensor.static_shape[2]))
        rows, keys = (-(-n // _ATTENTION_TILE) * _ATTENTION_TILE for n in sizes)
        work = 4.0 * batch * heads * rows * keys * head
        rate = target.rate(node.output.tensor.dtype) * _ATTENTION_SHARE
        plain = (Form.PLAIN,) * len(node.inputs)
        offer = _Offer(self.name, plain, (Form.PLAIN,), _LAUNCH_MICROSECONDS + work / rate)
        return _offered(offer, lambda at: _attention(node, core, at), dense, target)


@dataclass(frozen=True)
class _Offer:
    """What the candidates for a node have in common."""

    name: str
    reads: tuple[Form | None, ...]
    writes: tuple[Form, ...]
    cost: float


def _offered(
    offer: _Offer,
    describe: Callable[[Placement], _Description],
    dense: Placement,
    target: CudaTarget,
) -> list[Candidate] | Reject:
    if target.library is None:
        return Reject("engines are proposed on the device itself, and there is none here")
    try:
        library: Any = target.library(NAME)
        problem, operands = describe(dense)
        engines = library.engines(problem, [name for name, _ in operands])
        if problem.get("activation") == "gelu":
            engines = [e for e in engines if e.split("_")[0] != _INEXACT_ENGINE]
    except LaminaError as e:
        return Reject("; ".join([str(e).splitlines()[0], *([e.hint] if e.hint else [])]))
    found = []
    for rank, engine in enumerate(engines[:_MOST_ENGINES]):
        draft: Any = _Draft(describe, library, engine)
        name, cost = f"{offer.name} {engine}", offer.cost + _RANK * rank
        found.append(Candidate(name, offer.reads, offer.writes, cost, draft))
    return found or Reject("the library proposes no engine")


@dataclass(frozen=True)
class _Draft:
    """Makes the step, with its plan, when it is known where operands and result lie."""

    describe: Callable[[Placement], _Description]
    library: Cudnn
    engine: str

    def begin(self, at: Placement, ask: Ask) -> Future[Answer] | None:
        """Have the plan made beside; see :class:`lamina.backends.cuda.request.PlannedAhead`."""
        problem, operands = self.describe(at)
        return self.library.begin(problem, [name for name, _ in operands], self.engine, ask)

    def __call__(self, at: Placement) -> LibraryDraft:
        problem, operands = self.describe(at)
        plan, workspace = self.library.plan(problem, [name for name, _ in operands], self.engine)
        stored = {"version": self.library.version, "workspace_bytes": workspace}
        return LibraryDraft(
            library=NAME,
            problem=problem | stored,
            operands=operands,
            plan=plan,
            workspace_bytes=workspace,
        )


def _why_not_convolved(case: Case) -> str:
    op, dtype = case.op, case.node.inputs[0].tensor.dtype
    if isinstance(op, QuantizedConvolution):
        return "integers are not offered to it"
    if dtype not in FLOATS:
        return f"it takes f16, bf16 and f32, not {dtype}"
    if case.filters is None:
        return "the filters are no constant"
    if len(case.convolved(case.dense, matrix=True)) != 1 or op.name != "convolution":
        return "it is a transposed convolution"
    if not all(is_static(d) for v in case.images for d in v.tensor.shape):
        return "a size is known at the run only"
    if op.activation is not None and op.activation.kind.value not in ACTIVATIONS:
        return f"it has no {op.activation.kind.value}"
    return ""


def _convolution(case: Case, at: Placement) -> _Description:
    """Return a convolution as the library's problem."""
    (c,) = case.convolved(at, matrix=True)
    where, activation = c.windows, c.fused.activation
    # An axis in front that is not there needs no third dimension.
    first = 0 if (where.inner[0], where.outer[0], where.taps[0]) != (1, 1, 1) else 1
    axes = range(first, AXES)
    inner, outer = (tuple(int(n) for n in sizes) for sizes in (where.inner, where.outer))  # type: ignore[arg-type]
    padding = [_padding(inner[i], outer[i], *_window(case, i)) for i in axes]
    taps = [where.taps[i] for i in axes]
    filters, channels = where.groups * where.filters, where.channels
    images = int(where.images)  # type: ignore[arg-type]
    w_shape = (filters, channels, *taps)
    problem: dict[str, Any] = {
        "kind": "convolution",
        "dtype": c.x.dtype.value,
        "compute": "tf32" if c.x.dtype is DType.F32 and case.target.tf32 else "f32",
        "x_shape": [images, where.groups * channels, *(inner[i] for i in axes)],
        "x_strides": _strides(c.x, inner, axes),
        "w_shape": list(w_shape),
        "w_strides": _channels_last(w_shape),
        "y_shape": [images, filters, *(outer[i] for i in axes)],
        "y_strides": _strides(c.y, outer, axes),
        "pads_before": [before for before, _ in padding],
        "pads_after": [after for _, after in padding],
        "strides": [where.strides[i] for i in axes],
        "dilations": [where.dilations[i] for i in axes],
        "activation": activation.kind.value if activation else None,
        "alpha": activation.alpha if activation else 0.0,
        "beta": activation.beta if activation else 0.0,
    }
    operands: list[tuple[str, Role]] = [("x", c.x.role), ("w", _filters(case))]
    if c.bias is not None:
        problem["bias_dtype"] = c.bias[1].value
        operands.append(("bias", c.bias[0]))
    if c.residual is not None:
        problem["z_strides"] = _strides(c.residual, outer, axes)
        operands.append(("z", c.residual.role))
    return problem, (*operands, ("y", c.y.role))


def _window(case: Case, axis: int) -> tuple[int, int, int, int]:
    """Return taps, stride, dilation and padding in front of a spatial axis."""
    at = case.windows
    return at.taps[axis], at.strides[axis], at.dilations[axis], at.pads[axis]


def _padding(
    inner: int, outer: int, taps: int, stride: int, dilation: int, before: int
) -> tuple[int, int]:
    """Return zeros before and after an axis, as many after as before where that is the same."""
    width = dilation * (taps - 1) + 1
    if (inner + 2 * before - width) // stride + 1 == outer:
        return before, before
    return before, max(0, (outer - 1) * stride + width - inner - before)


def _strides(image: Image, sizes: Sequence[int], axes: range) -> list[int]:
    """Return the strides of batch, channels and spatial axes.

    Those of an axis of size 1 may be anything; the library wants what it would be otherwise.
    """
    spatial: list[int] = []
    step = 0
    for i in reversed(axes):
        own = int(image.spatial[i])  # type: ignore[arg-type]
        own = own or step
        spatial.insert(0, own)
        step = own * sizes[i]
    batch = int(image.batch)  # type: ignore[arg-type]
    return [batch, int(image.channel), *spatial]  # type: ignore[arg-type]


def _channels_last(shape: Sequence[int]) -> list[int]:
    """Return the dense strides of [filters, channels, *taps] with the channels innermost."""
    strides, step = [0] * len(shape), 1
    for axis in (1, *range(len(shape) - 1, 1, -1), 0):
        strides[axis] = step
        step *= shape[axis]
    return strides


def _filters(case: Case) -> Packed:
    w, dtype = case.filters, case.node.inputs[1].tensor.dtype
    assert w is not None

    def pack() -> Weight:
        return Weight(dense(np.moveaxis(w, 1, -1)))

    return Packed(dtype, w.size * dtype.itemsize, pack)


def _why_not_attended(node: Node, core: Node, dense: Placement) -> str:
    op, (q, k, v) = core.op, core.inputs[:3]
    assert isinstance(op, Attention)
    stored = {node.output.tensor.dtype, *(_stored(node, o) for o in (q, k, v))}
    if len(stored) != 1 or not stored <= {DType.F16, DType.BF16}:
        return f"it takes f16 or bf16, not {' and '.join(sorted(map(str, stored)))}"
    if len(core.inputs) > 3:
        return "a mask might hide all keys from a query, which it gives no zeros"
    if op.softcap:
        return "it does not bound scores"
    if not all(is_static(d) for o in (q, k, v) for d in o.tensor.shape):
        return "a size is known at the run only"
    if op.causal and _alignment(op, q, k) is None:
        return "a query before the first key sees none, which it gives no zeros"
    views = [*(operand_view(node, o, dense) for o in (q, k, v)), result_view(node, core, dense)]
    if any(view is None or view.strides[3] != 1 for view in views):
        return "the elements of a head are apart"
    if not all(v is None or divides(_ALIGNMENT_BYTES // 2, v.offset) for v in views):
        return "heads do not begin at multiples of 16 bytes"
    return ""


def _stored(node: Node, operand: Value) -> DType:
    """Return the type of the node's operand behind one of attention's: casts need no step."""
    return node.inputs[operand_of(node, operand)[0]].tensor.dtype


def _alignment(op: Attention, q: Value, k: Value) -> str | None:
    """Return which corner the triangle of a causal mask begins in, None for neither."""
    queries, keys = q.tensor.shape[2], k.tensor.shape[2]
    if op.causal_offset == 0:
        return "first"
    return "last" if op.causal_offset == keys - queries and int(keys) >= int(queries) else None  # type: ignore[arg-type]


def _attention(node: Node, core: Node, at: Placement) -> _Description:
    """Return an attention as the library's problem."""
    op = core.op
    assert isinstance(op, Attention)
    problem: dict[str, Any] = {
        "kind": "attention",
        "dtype": node.output.tensor.dtype.value,
        "scale": op.scale,
        "causal": _alignment(op, *core.inputs[:2]) if op.causal else None,
    }
    operands: list[tuple[str, Role]] = []
    for name, operand in zip("qkv", core.inputs[:3], strict=True):
        problem |= _heads(name, operand_view(node, operand, at), node.output.tensor.dtype)
        operands.append((name, Read(operand_of(node, operand)[0])))
    problem |= _heads("y", result_view(node, core, at), node.output.tensor.dtype)
    return problem, (*operands, ("y", Write(0)))


def _heads(name: str, view: StridedView | None, dtype: DType) -> dict[str, Any]:
    """Return the fields that say where the heads of an operand lie."""
    if view is None or not divides(_ALIGNMENT_BYTES, view.offset * dtype.itemsize):
        raise BuildError(f"{name} of an attention does not begin at a multiple of 16 bytes")
    shape, strides = [int(d) for d in view.shape], [int(s) for s in view.strides]  # type: ignore[arg-type]
    whole = max(1, *(s * d for s, d in zip(strides, shape, strict=True)))
    return {
        f"{name}_shape": shape,
        # An axis of size 1 may have any stride; the library takes none of 0.
        f"{name}_strides": [s or whole for s in strides],
        f"{name}_first_bytes": int(view.offset) * dtype.itemsize,  # type: ignore[arg-type]
    }
