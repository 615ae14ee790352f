"""Attention whose scores stay in registers, for rows of at most a few hundred keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.tactics.attention import (
    ProgramShape,
    any_heads,
    attention_call,
    attention_draft,
    microseconds,
    padded,
    why_not,
)
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import is_static
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import Attention
from lamina.tactics.candidate import Candidate, Placement
from lamina.tactics.form import Form
from lamina.tactics.heads import attention_of

_MATRIX_UNITS_SINCE: Final = 80
_MOST_KEYS: Final = 256
_MOST_NUMBERS: Final = 176
"""Scores and results in the registers of a thread."""
_SMALLEST_PIECE: Final = 16
_MOST_PIECES: Final = 3
_WARP: Final = 32


@dataclass(frozen=True)
class _Config:
    """Rows of queries that are worked on together, warps, and how often a program does it."""

    rows: int
    warps: int
    turns: int

    def __str__(self) -> str:
        return f"{self.rows} w{self.warps}" + (f" x{self.turns}" if self.turns > 1 else "")


_CONFIGS: Final = tuple(
    _Config(*c)
    for c in ((16, 2, 1), (32, 4, 1), (64, 4, 1), (64, 4, 2), (64, 4, 4), (128, 8, 1), (128, 8, 2))
)


class TritonAttentionOnce:
    """The kernel of :mod:`lamina.backends.cuda.kernels.attention_once`."""

    name = "triton-attention-once"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer numbers of rows for an attention without a mask."""
        core = attention_of(node)
        if core is None:
            return None
        if why := why_not(node, core) or _why_not(core, target):
            return Reject(why)
        keys, rows = core.inputs[1].tensor.shape[2], core.inputs[0].tensor.shape[2]
        widths = pieces(int(keys))  # type: ignore[arg-type]
        return [
            Candidate(
                f"{self.name} {config}",
                (Form.PLAIN,) * len(node.inputs),
                (Form.PLAIN,),
                _estimate(core, config, sum(widths), target),
                _Draft(node, core, config, widths, target),  # type: ignore[arg-type]
            )
            for config in _CONFIGS
            if _fits(core, config, sum(widths), target)
            and (config.turns == 1 or not is_static(rows) or config.rows < int(rows))  # type: ignore[arg-type]
        ] or Reject("a row of scores does not fit into registers")


def pieces(keys: int) -> tuple[int, ...]:
    """Return up to three falling powers of two that hold the keys with little left over."""
    found: list[int] = []
    while keys > 0:
        width = max(_SMALLEST_PIECE, 1 << (keys - 1).bit_length())
        last = len(found) == _MOST_PIECES - 1
        if width > 2 * _SMALLEST_PIECE and not last and 8 * keys <= 7 * width:
            width //= 2
        found.append(width)
        keys -= width
    return tuple(found)


def _why_not(core: Node, target: CudaTarget) -> str:
    op, keys = core.op, core.inputs[1].tensor.shape[2]
    assert isinstance(op, Attention)
    exact = core.inputs[0].tensor.dtype is DType.F32 and not target.tf32
    if exact or target.arch < _MATRIX_UNITS_SINCE:
        return "without matrix units scores and operands do not fit into registers"
    if len(core.inputs) > 3 or op.causal:
        return "a query does not see every key"
    if op.scale <= 0:
        return "the scale is not positive"
    if not is_static(keys) or not 0 < int(keys) <= _MOST_KEYS:  # type: ignore[arg-type]
        return f"there may be more than {_MOST_KEYS} keys, or none"
    return ""


def _fits(core: Node, config: _Config, keys: int, target: CudaTarget) -> bool:
    value = padded(core.inputs[2].tensor.shape[3])
    numbers = config.rows * (keys + value) / (config.warps * _WARP)
    return numbers <= _MOST_NUMBERS and _shared_bytes(core, config, keys) <= target.shared_bytes


def _shared_bytes(core: Node, config: _Config, keys: int) -> int:
    q, _, v = (operand.tensor for operand in core.inputs[:3])
    head, value = padded(q.shape[3]), padded(v.shape[3])
    return q.dtype.itemsize * (keys * (head + value) + config.rows * head)


def _estimate(core: Node, config: _Config, keys: int, target: CudaTarget) -> float:
    resident = max(1, target.shared_bytes // _shared_bytes(core, config, keys))
    shape = ProgramShape(config.rows, config.turns, config.warps, resident)
    return microseconds(core, shape, keys, 1.0, target)


@dataclass(frozen=True)
class _Draft:
    """Makes the launch when it is known where operands and result lie."""

    node: Node
    core: Node
    config: _Config
    widths: tuple[int, ...]
    target: CudaTarget

    def __call__(self, p: Placement) -> CudaDraft:
        config = self.config
        call = attention_call(self.node, self.core, p, "attention_once", self.target)
        widths = (*self.widths, 0, 0)
        call.constants(
            BM=config.rows,
            TURNS=config.turns,
            P0=widths[0],
            P1=widths[1],
            P2=widths[2],
            **any_heads(self.core, self.target),
        )
        rows = config.rows * config.turns
        return attention_draft(call, self.core, rows, config.warps, 2, self.target)
