"""Attention on Hopper, with all keys and values of a head in shared memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.tactics.attention import (
    ProgramShape,
    attention_call,
    attention_draft,
    dense_placement,
    mask_kind,
    microseconds,
    padded,
    pass_mask,
    views_of,
    why_not,
)
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import divides, is_static
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import Attention
from lamina.tactics.candidate import Candidate, Placement
from lamina.tactics.form import Form
from lamina.tactics.heads import attention_of

_ARCH: Final = 90
"""The one compute capability whose matrix units the kernels' instructions are for."""
_VECTOR: Final = 8
"""Elements that are copied at once: 16 bytes."""
_KNOWN_FACTOR: Final = 16
"""What the compiler hears of numbers that it does not know."""
_WARP_ROWS: Final = 16
_SMALLEST_BLOCK: Final = 16
_MOST_TURNS: Final = 8
"""Tiles of a program where the number of rows is not known."""
_NUMBERS: Final = 224
"""Scores, weights and results in the registers of a thread."""
_WARP: Final = 32
_ROW: Final = 2
_REGISTERS: Final = 65536
_MOST_REGISTERS: Final = 255
_SCORE_SHARE: Final = 1.3
"""How many times more scores become weights in a microsecond than in other kernels."""


@dataclass(frozen=True)
class _Config:
    """How a program works.

    Its tiles have ``rows`` queries; with ``whole`` it works off all tiles of a head, otherwise one.
    ``width`` is that of a block of keys.  With ``ahead`` the next block's scores are computed while
    those of a block become weights.
    """

    rows: int
    width: int
    whole: bool = False
    ahead: bool = False
    registers: int = 0

    def __str__(self) -> str:
        parts = [f"{self.rows}x{self.width}"]
        parts += [name for name in ("ahead", "whole") if getattr(self, name)]
        parts += [f"r{self.registers}"] if self.registers else []
        return " ".join(parts)

    @property
    def warps(self) -> int:
        """Return the warps of a program."""
        return self.rows // _WARP_ROWS


_CONFIGS: Final = (
    _Config(64, 128, whole=True),
    _Config(64, 128, whole=True, ahead=True, registers=168),
    _Config(64, 64, whole=True, ahead=True),
    _Config(128, 128, whole=True),
    _Config(64, 128),
    _Config(64, 128, ahead=True),
    _Config(64, 64, ahead=True),
)


class HopperAttention:
    """The kernel of :mod:`lamina.backends.cuda.kernels.attention_hopper`."""

    name = "hopper-attention"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer tiles for an attention that is not causal."""
        core = attention_of(node)
        if core is None:
            return None
        if why := why_not(node, core) or _why_not(node, core, target):
            return Reject(why)
        rows = core.inputs[0].tensor.shape[2]
        return [
            Candidate(
                f"{self.name} {config}",
                (Form.PLAIN,) * len(node.inputs),
                (Form.PLAIN,),
                _estimate(core, config, target),
                _Draft(node, core, config, target),  # type: ignore[arg-type]
            )
            for config in _CONFIGS
            if _fits(core, config, target)
            and (not config.whole or not is_static(rows) or config.rows < int(rows))  # type: ignore[arg-type]
        ] or Reject("keys and values of a head do not fit into shared memory")


def widths_of(keys: int, width: int) -> tuple[int, ...]:
    """Return the widths of blocks of keys, as the kernel has them."""
    whole, rest = divmod(keys, width)
    found = [width] * whole
    while rest > 0:
        taken = max(_SMALLEST_BLOCK, 1 << (rest - 1).bit_length())
        if taken > 2 * _SMALLEST_BLOCK and 8 * rest <= 7 * taken:
            taken //= 2
        found.append(taken)
        rest -= taken
    return tuple(found)


def _why_not(node: Node, core: Node, target: CudaTarget) -> str:
    op, (q, k, v) = core.op, (operand.tensor for operand in core.inputs[:3])
    assert isinstance(op, Attention)
    if target.arch != _ARCH:
        return "its instructions are those of compute capability 9.0"
    if {q.dtype, k.dtype, v.dtype} - {DType.F16, DType.BF16}:
        return "it works on f16 and bf16"
    if op.causal:
        return "it does not leave out what a causal mask hides"
    if op.scale <= 0 or op.softcap:
        return "the scale is not positive, or scores are bounded"
    if q.shape[3] != v.shape[3]:
        return "heads of queries and values differ in size"
    if not is_static(k.shape[2]) or k.shape[2] == 0:
        return "the number of keys is not known, or 0"
    views = [view for view in views_of(node, core, dense_placement(node)) if view is not None]
    steps = [q.shape[3], *(n for view in views for n in (view.offset, *view.strides[:3]))]
    if not all(divides(_VECTOR if is_static(n) else _KNOWN_FACTOR, n) for n in steps):
        return "heads do not begin at multiples of 16 bytes"
    return ""


def _fits(core: Node, config: _Config, target: CudaTarget) -> bool:
    return _numbers(core, config) <= _NUMBERS and _shared_bytes(core, config) <= target.shared_bytes


def _numbers(core: Node, config: _Config) -> int:
    """Return the numbers of 32 bits that a thread keeps in registers."""
    width = min(config.width, _keys(core, config))
    scores = (2 if config.ahead else 1) * width
    head = padded(core.inputs[0].tensor.shape[3])
    return _WARP_ROWS * (scores + width // 2 + head) // _WARP


def _keys(core: Node, config: _Config) -> int:
    return sum(widths_of(int(core.inputs[1].tensor.shape[2]), config.width))  # type: ignore[arg-type]


def _shared_bytes(core: Node, config: _Config) -> int:
    head = padded(core.inputs[0].tensor.shape[3])
    buffers = 2 if config.whole else 1
    rows = 2 * _keys(core, config) + buffers * config.rows
    return core.inputs[0].tensor.dtype.itemsize * head * rows


def _estimate(core: Node, config: _Config, target: CudaTarget) -> float:
    room = max(1, target.shared_bytes // _shared_bytes(core, config))
    registers = config.registers or _MOST_REGISTERS
    resident = min(room, max(1, _REGISTERS // (registers * config.warps * _WARP)))
    rows = core.inputs[0].tensor.substitute(dict(target.env)).shape[2]
    turns = -(-int(rows) // config.rows) if config.whole and is_static(rows) else 1  # type: ignore[arg-type]
    shape = ProgramShape(config.rows, turns, config.warps, resident)
    return microseconds(core, shape, _keys(core, config), _SCORE_SHARE, target)


@dataclass(frozen=True)
class _Draft:
    """Makes the launch when it is known where operands and result lie."""

    node: Node
    core: Node
    config: _Config
    target: CudaTarget

    def __call__(self, p: Placement) -> CudaDraft:
        config, turns = self.config, self._turns()
        call = attention_call(self.node, self.core, p, "attention_hopper", self.target)
        strides = pass_mask(call, self.core)
        call.constants(
            ROWS=config.rows,
            TURNS=turns,
            WIDTH=config.width,
            AHEAD=config.ahead,
            WARPS=config.warps,
            MASK=mask_kind(self.core),
            REPEATED=strides[_ROW] == 0,
        )
        rows = config.rows * turns
        draft = attention_draft(call, self.core, rows, config.warps, 2, self.target)
        (launch,) = draft.launches
        kernel = replace(launch.kernel, most_registers=config.registers)
        return replace(draft, launches=(replace(launch, kernel=kernel),))

    def _turns(self) -> int:
        """Return how many times a program takes a tile at most."""
        rows = self.core.inputs[0].tensor.shape[2]
        if not self.config.whole:
            return 1
        return -(-int(rows) // self.config.rows) if is_static(rows) else _MOST_TURNS  # type: ignore[arg-type]
