"""Attention in one kernel, on heads where they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from lamina.backends.cuda.request import CudaDraft, Number
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.layout import Layout
from lamina.ir.dims import Dim, ceildiv, floordiv, is_static, product
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.strided import StridedView
from lamina.ir.types import DType
from lamina.ops import Attention
from lamina.tactics.candidate import Candidate, Placement, Read, Write
from lamina.tactics.form import Form
from lamina.tactics.heads import attention_of, operand_of, operand_view, result_view

_FLOATS: Final = (DType.F16, DType.BF16, DType.F32)
_SMALLEST_TILE: Final = 16
_LARGEST_HEAD: Final = 256
_LAUNCH_MICROSECONDS: Final = 1.5
_UNKNOWN_MICROSECONDS: Final = 100.0
_FILL_MICROSECONDS: Final = 1.2
"""Until what a program reads is there."""
_PROGRAM_MICROSECONDS: Final = 0.2
"""Of it what other programs on the multiprocessor do not hide."""
_SCORES_PER_MICROSECOND: Final = 1e4
"""Scores that become weights on one multiprocessor; products with heads of 64 take as long."""
_KEYS_OF_BLOCK: Final = 16
"""Keys whose scores take as long as what is done once for each block."""
_WARPS_OF_FULL_RATE: Final = 7
_MOST_WARPS: Final = 16
"""Warps whose registers a multiprocessor has room for."""
_BATCH, _HEAD, _ROW, _ELEMENT = range(4)


@dataclass(frozen=True)
class _Config:
    """Rows of queries and of keys in a tile, warps, and blocks of keys in flight."""

    queries: int
    keys: int
    warps: int
    stages: int

    def __str__(self) -> str:
        return f"{self.queries}x{self.keys} w{self.warps} s{self.stages}"


_CONFIGS: Final = tuple(
    _Config(*c)
    for c in (
        (16, 32, 2, 3), (16, 64, 4, 3), (16, 128, 4, 2), (32, 32, 2, 3), (32, 64, 4, 3),
        (32, 128, 4, 2), (64, 32, 4, 4), (64, 64, 4, 3), (64, 128, 4, 2), (128, 32, 4, 3),
        (128, 64, 4, 3), (128, 64, 8, 3),
    )
)  # fmt: skip


class TritonAttention:
    """The kernel of :mod:`lamina.backends.cuda.kernels.attention`."""

    name = "triton-attention"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer tiles for an attention alone or in a region with its views."""
        core = attention_of(node)
        if core is None:
            return None
        if why := why_not(node, core):
            return Reject(why)
        return [
            Candidate(
                f"{self.name} {config}",
                (Form.PLAIN,) * len(node.inputs),
                (Form.PLAIN,),
                _estimate(core, config, target),
                _Draft(node, core, config, target),  # type: ignore[arg-type]
            )
            for config in _CONFIGS
            if _shared_bytes(core, config) <= target.shared_bytes
        ]


def why_not(node: Node, core: Node) -> str:
    """Return why the kernels cannot compute an attention; "" when they can."""
    q, k, v = (operand.tensor for operand in core.inputs[:3])
    if q.dtype not in _FLOATS:
        return f"it works on f16, bf16 and f32, not on {q.dtype.value}"
    if not is_static(q.shape[3]) or not is_static(v.shape[3]):
        return "the size of a head is not known"
    if max(int(q.shape[3]), int(v.shape[3])) > _LARGEST_HEAD:  # type: ignore[arg-type]
        return f"a head has more than {_LARGEST_HEAD} elements"
    views = views_of(node, core, dense_placement(node))
    if any(w is None or (w.strides[_ELEMENT] != 1 and w.shape[_ELEMENT] != 1) for w in views):
        return "the elements of a head are apart"
    if len(core.inputs) > 3 and _mask_strides(core, k.shape[2]) is None:
        return "the mask may or may not repeat along the keys"
    return ""


def dense_placement(node: Node) -> Placement:
    """Return where row-major operands and results lie."""
    operands = tuple(Layout.dense(o.tensor.shape) for o in node.inputs)
    return Placement(operands, (Layout.dense(node.output.tensor.shape),), "")


def views_of(node: Node, core: Node, p: Placement) -> list[StridedView | None]:
    """Return where q, k, v and the result of an attention lie."""
    return [*(operand_view(node, o, p) for o in core.inputs[:3]), result_view(node, core, p)]


def _shared_bytes(core: Node, config: _Config) -> int:
    """Return about what the tiles of keys and values in flight, and of queries, take."""
    q, _, v = (operand.tensor for operand in core.inputs[:3])
    head, value = padded(q.shape[3]), padded(v.shape[3])
    return q.dtype.itemsize * (config.queries * head + config.stages * config.keys * (head + value))


def padded(size: Dim) -> int:
    """Return the power of two, at least 16, that a matrix instruction works on."""
    return max(_SMALLEST_TILE, 1 << (int(size) - 1).bit_length())  # type: ignore[arg-type]


def _estimate(core: Node, config: _Config, target: CudaTarget) -> float:
    keys = core.inputs[1].tensor.substitute(dict(target.env)).shape[2]
    if not is_static(keys):
        return _UNKNOWN_MICROSECONDS
    whole, rest = divmod(int(keys), config.keys)  # type: ignore[arg-type]
    count = whole * config.keys + (max(_SMALLEST_TILE, rest) if rest else 0)
    # Every block of keys has its own maximum, sum and rescaling.
    share = config.keys / (config.keys + _KEYS_OF_BLOCK)
    resident = max(1, target.shared_bytes // max(1, _shared_bytes(core, config)))
    shape = ProgramShape(config.queries, 1, config.warps, resident)
    return microseconds(core, shape, count, share, target)


@dataclass(frozen=True)
class ProgramShape:
    """Rows at a time, how many times, warps, and programs that shared memory has room for."""

    rows: int
    turns: int
    warps: int
    resident: int


def microseconds(
    core: Node, shape: ProgramShape, keys: int, share: float, target: CudaTarget
) -> float:
    """Return how long programs of a shape take for ``keys`` keys, or their operands' bytes.

    ``share`` is what is reached of the rate at which scores become weights.
    """
    q, k, v = (operand.tensor.substitute(dict(target.env)) for operand in core.inputs[:3])
    if not all(is_static(d) for d in (*q.shape, *k.shape, *v.shape)):
        return _UNKNOWN_MICROSECONDS
    batch, heads, rows, head = (int(d) for d in q.shape)  # type: ignore[arg-type]
    each = math.ceil(math.ceil(rows / (shape.rows * shape.turns)) * batch * heads / target.sms)
    # Products with few rows use matrix units badly, and read keys again for each few.
    rate = _SCORES_PER_MICROSECOND * share * min(1.0, shape.rows / 64)
    scores = shape.turns * shape.rows * keys * max(1.0, head / 64)
    resident = max(1, min(shape.resident, _MOST_WARPS // shape.warps))
    alone = _FILL_MICROSECONDS + scores / (rate * min(1.0, shape.warps / _WARPS_OF_FULL_RATE))
    together = each * (scores / rate + _PROGRAM_MICROSECONDS)
    compute = max(math.ceil(each / resident) * alone, together)
    moved = sum(math.prod(t.static_shape) * t.dtype.itemsize for t in (q, k, v, q))
    memory = moved / target.bytes_per_microsecond
    return _LAUNCH_MICROSECONDS + max(compute, memory) + 0.1 * min(compute, memory)


def _mask_strides(core: Node, keys: Dim) -> tuple[Dim, ...] | None:
    mask = core.inputs[3].tensor
    shape: tuple[Dim, ...] = (1,) * (4 - mask.rank) + mask.shape
    if shape[3] not in (1, keys):
        return None
    dense = StridedView.dense(shape).strides
    return tuple(0 if d == 1 else s for d, s in zip(shape, dense, strict=True))


@dataclass(frozen=True)
class _Draft:
    """Makes the launch when it is known where operands and result lie."""

    node: Node
    core: Node
    config: _Config
    target: CudaTarget

    def __call__(self, p: Placement) -> CudaDraft:
        core, config = self.core, self.config
        op = core.op
        assert isinstance(op, Attention)
        call = attention_call(self.node, core, p, "attention", self.target)
        pass_mask(call, core)
        call.sizes(causal_offset=op.causal_offset)
        call.constants(
            BM=config.queries,
            LAST=self._last(),
            BN=config.keys,
            MASK=mask_kind(core),
            CAUSAL=op.causal,
            REST=self._rest(),
            **any_heads(core, self.target),
        )
        return attention_draft(call, core, config.queries, config.warps, config.stages, self.target)

    def _last(self) -> int:
        """Return the rows of a head's last program: few rows need no tile for many."""
        rows, most = self.core.inputs[0].tensor.shape[2], self.config.queries
        rest = int(rows) % most if is_static(rows) else 0  # type: ignore[arg-type]
        return min(most, padded(rest)) if rest else most

    def _rest(self) -> int | None:
        """Return how many keys are left after whole blocks where that alone decides what to do."""
        op, keys = self.core.op, self.core.inputs[1].tensor.shape[2]
        assert isinstance(op, Attention)
        if op.causal or len(self.core.inputs) > 3 or not is_static(keys):
            return None
        return int(keys) % self.config.keys  # type: ignore[arg-type]


def attention_call(node: Node, core: Node, p: Placement, function: str, target: CudaTarget) -> Call:
    """Return the call of an attention kernel with what all of them take.

    The function stands in the module of its name.
    """
    op = core.op
    assert isinstance(op, Attention)
    q, k = (operand.tensor for operand in core.inputs[:2])
    call = Call(function, function)
    reads = [operand_of(node, operand)[0] for operand in core.inputs]
    for name, index in zip(("q", "k", "v", "mask"), reads, strict=False):
        call.pointer(name, Read(index), node.inputs[index].tensor.dtype)
    call.pointer("y", Write(0), node.output.tensor.dtype)
    call.sizes(rows=q.shape[2], keys=k.shape[2], heads=q.shape[1])
    for name, view in zip("qkvy", views_of(node, core, p), strict=True):
        assert view is not None
        places = {"offset": view.offset, "batch": view.strides[_BATCH]}
        places |= {"head": view.strides[_HEAD], "row": view.strides[_ROW]}
        call.sizes(**{f"{name}_{what}": place for what, place in places.items()})
    call.constants(
        SHARED=int(floordiv(q.shape[1], k.shape[1])),  # type: ignore[arg-type]
        D=int(q.shape[3]),  # type: ignore[arg-type]
        BD=padded(q.shape[3]),
        SCALE=op.scale,
        DEPENDENT=target.dependent,
    )
    return call


def pass_mask(call: Call, core: Node) -> tuple[Dim, ...]:
    """Pass where the mask's elements are; return its strides, zeros where there is none."""
    strides: tuple[Dim, ...] | None = (0, 0, 0, 0)
    if len(core.inputs) > 3:
        strides = _mask_strides(core, core.inputs[1].tensor.shape[2])
    else:
        call.pointer("mask", None)
    assert strides is not None
    names = ("m_batch", "m_head", "m_row", "m_column")
    call.sizes(**dict(zip(names, strides, strict=True)))
    return strides


def mask_kind(core: Node) -> str:
    """Return how the kernels take the mask."""
    if len(core.inputs) < 4:
        return "none"
    return "keep" if core.inputs[3].tensor.dtype is DType.BOOL else "add"


def any_heads(core: Node, target: CudaTarget) -> dict[str, Number]:
    """Return the constants of kernels for heads of any sizes and types."""
    op, v = core.op, core.inputs[2].tensor
    assert isinstance(op, Attention)
    return {
        "DV": int(v.shape[3]),  # type: ignore[arg-type]
        "BDV": padded(v.shape[3]),
        "SOFTCAP": op.softcap,
        "PRECISION": "tf32" if target.tf32 else "ieee",
    }


def attention_draft(
    call: Call, core: Node, rows: int, warps: int, stages: int, target: CudaTarget
) -> CudaDraft:
    """Return the launch of a call whose programs have ``rows`` rows of a head each."""
    q = core.inputs[0].tensor
    grid = (ceildiv(q.shape[2], rows), product(q.shape[:2]))
    launch = call.launch(grid, warps=warps, stages=stages, dependent=target.dependent)
    return CudaDraft(launches=(launch,))
