"""Attention in one kernel, on heads where they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from lamina.backends.cuda.request import (
    MODULE,
    Argument,
    CudaDraft,
    KernelRequest,
    Launch,
    Number,
    Scalar,
)
from lamina.backends.cuda.target import CudaTarget
from lamina.backends.cuda.triton_types import TRITON_TYPES
from lamina.codegen.layout import Layout
from lamina.ir.dims import Dim, ceildiv, divides, floordiv, is_static, product
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.strided import StridedView
from lamina.ir.types import DType
from lamina.ops import Attention
from lamina.tactics.candidate import Candidate, Placement, Read, Write
from lamina.tactics.form import Form
from lamina.tactics.heads import attention_of, operand_of, operand_view, result_view

_SOURCE: Final = MODULE + "lamina.backends.cuda.kernels.attention"
_FLOATS: Final = (DType.F16, DType.BF16, DType.F32)
_SMALLEST_TILE: Final = 16
_LARGEST_HEAD: Final = 256
_LAUNCH_MICROSECONDS: Final = 2.0
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
        (32, 128, 4, 2), (64, 32, 4, 3), (64, 64, 4, 3), (64, 128, 4, 2), (64, 128, 8, 2),
        (128, 32, 4, 3), (128, 64, 4, 3), (128, 64, 8, 3), (128, 128, 8, 2),
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
        if why := _why_not(node, core):
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


def _why_not(node: Node, core: Node) -> str:
    q, k, v = (operand.tensor for operand in core.inputs[:3])
    if q.dtype not in _FLOATS:
        return f"it works on f16, bf16 and f32, not on {q.dtype.value}"
    if not is_static(q.shape[3]) or not is_static(v.shape[3]):
        return "the size of a head is not known"
    if max(int(q.shape[3]), int(v.shape[3])) > _LARGEST_HEAD:  # type: ignore[arg-type]
        return f"a head has more than {_LARGEST_HEAD} elements"
    dense = Placement(
        tuple(Layout.dense(o.tensor.shape) for o in node.inputs),
        (Layout.dense(node.output.tensor.shape),),
        "",
    )
    views = [operand_view(node, o, dense) for o in core.inputs[:3]]
    views.append(result_view(node, core, dense))
    if any(w is None or (w.strides[_ELEMENT] != 1 and w.shape[_ELEMENT] != 1) for w in views):
        return "the elements of a head are apart"
    if len(core.inputs) > 3 and _mask_strides(core, k.shape[2]) is None:
        return "the mask may or may not repeat along the keys"
    return ""


def _shared_bytes(core: Node, config: _Config) -> int:
    """Return about what the tiles of keys and values in flight, and of queries, take."""
    q, _, v = (operand.tensor for operand in core.inputs[:3])
    head, value = _padded(q.shape[3]), _padded(v.shape[3])
    return q.dtype.itemsize * (config.queries * head + config.stages * config.keys * (head + value))


def _padded(size: Dim) -> int:
    """Return the power of two, at least 16, that a matrix instruction works on."""
    return max(_SMALLEST_TILE, 1 << (int(size) - 1).bit_length())  # type: ignore[arg-type]


def _estimate(core: Node, config: _Config, target: CudaTarget) -> float:
    """Return microseconds: tiles of a head, in waves over the multiprocessors."""
    q, k, v = (operand.tensor.substitute(dict(target.env)) for operand in core.inputs[:3])
    sizes = (*q.shape, *k.shape, *v.shape)
    if not all(is_static(d) for d in sizes):
        return 100.0
    batch, heads, rows, _ = (int(d) for d in q.shape)  # type: ignore[arg-type]
    keys = int(k.shape[2])  # type: ignore[arg-type]
    programs = math.ceil(rows / config.queries) * batch * heads
    blocks = math.ceil(keys / config.keys)
    flops = 2 * config.queries * config.keys * (_padded(q.shape[3]) + _padded(v.shape[3]))
    # A tile reaches a share of the multiprocessor's rate that grows with its size; the latency
    # of a block (two products and a softmax that depend on each other) bounds small ones.
    share = min(0.6, config.queries * config.keys / 20000)
    block = max(flops / (target.rate(q.dtype) / target.sms * share), 0.35)
    resident = max(1, min(4, target.shared_bytes // max(1, _shared_bytes(core, config))))
    waves = math.ceil(programs / (target.sms * resident))
    per_sm = min(resident, math.ceil(programs / target.sms))
    compute = waves * blocks * block * max(1.0, per_sm * share)
    moved = sum(math.prod(t.static_shape) * t.dtype.itemsize for t in (q, k, v, q))
    return _LAUNCH_MICROSECONDS + max(compute, moved / target.bytes_per_microsecond)


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
        q, k, v = (operand.tensor for operand in core.inputs[:3])
        numbers: dict[str, Dim] = {"rows": q.shape[2], "keys": k.shape[2], "heads": q.shape[1]}
        for name, view in zip("qkvy", self._views(p), strict=True):
            numbers |= {
                f"{name}_offset": view.offset,
                f"{name}_batch": view.strides[_BATCH],
                f"{name}_head": view.strides[_HEAD],
                f"{name}_row": view.strides[_ROW],
            }
        strides = _mask_strides(core, k.shape[2]) if len(core.inputs) > 3 else None
        names = ("m_batch", "m_head", "m_row", "m_column")
        numbers |= dict(zip(names, strides or (0, 0, 0, 0), strict=True))
        numbers["causal_offset"] = op.causal_offset
        exact = "tf32" if self.target.tf32 else "ieee"
        constants: dict[str, Number] = {
            "SHARED": int(floordiv(q.shape[1], k.shape[1])),  # type: ignore[arg-type]
            "D": int(q.shape[3]), "DV": int(v.shape[3]),  # type: ignore[arg-type]
            "BD": _padded(q.shape[3]), "BDV": _padded(v.shape[3]),
            "BM": config.queries, "BN": config.keys,
            "SCALE": op.scale, "SOFTCAP": op.softcap, "MASK": self._mask_kind(),
            "CAUSAL": op.causal, "PRECISION": exact, "DEPENDENT": self.target.dependent,
        }  # fmt: skip
        return self._launch(numbers, constants)

    def _views(self, p: Placement) -> list[StridedView]:
        views = [operand_view(self.node, o, p) for o in self.core.inputs[:3]]
        views.append(result_view(self.node, self.core, p))
        return [w for w in views if w is not None]

    def _mask_kind(self) -> str:
        if len(self.core.inputs) < 4:
            return "none"
        return "keep" if self.core.inputs[3].tensor.dtype is DType.BOOL else "add"

    def _launch(self, numbers: dict[str, Dim], constants: dict[str, Number]) -> CudaDraft:
        """Pass known numbers as constants, the others at the launch."""
        reads = [operand_of(self.node, o)[0] for o in self.core.inputs]
        pointers = dict(zip(("q", "k", "v", "mask"), reads, strict=False))
        parameters: list[tuple[str, str]] = []
        arguments: list[Argument] = []
        for name, index in pointers.items():
            parameters.append((name, "*" + TRITON_TYPES[self.node.inputs[index].tensor.dtype]))
            arguments.append(Read(index))
        if "mask" not in pointers:
            constants["mask"] = None
        parameters.append(("y", "*" + TRITON_TYPES[self.node.output.tensor.dtype]))
        arguments.append(Write(0))
        divisible = [name for name, _ in parameters]
        for name, value in numbers.items():
            if is_static(value):
                constants[name] = int(value)  # type: ignore[arg-type]
                continue
            parameters.append((name, "i32"))
            arguments.append(Scalar(value))
            if divides(16, value):
                divisible.append(name)
        q = self.core.inputs[0].tensor
        kernel = KernelRequest(
            function="attention",
            source=_SOURCE,
            parameters=tuple(parameters),
            constants=tuple(sorted(constants.items())),
            divisible=tuple(divisible),
            warps=self.config.warps,
            stages=self.config.stages,
            dependent=self.target.dependent,
        )
        grid = (ceildiv(q.shape[2], self.config.queries), product(q.shape[:2]), 1)
        return CudaDraft(launches=(Launch(kernel=kernel, grid=grid, arguments=tuple(arguments)),))
