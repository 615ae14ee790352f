"""What each layer of a program moves and computes, next to what the device could do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lamina.errors import LaminaError
from lamina.ir.dims import Dim, evaluate
from lamina.ir.interpret import bind_shape
from lamina.ir.types import TensorType
from lamina.plan.plan import Program, Section, Step

_PICKS: Final = frozenset({"gather", "gather_elements", "gather_nd", "slice", "embedding"})
"""Operators that read of an operand no more than they write."""


@dataclass(frozen=True)
class Ceilings:
    """What a device reached: bytes of memory, and operations of products by element type.

    Both are per microsecond: 1e6 are a terabyte, or a trillion operations, a second.
    """

    bytes_per_microsecond: float
    operations_per_microsecond: Mapping[str, float]


@dataclass(frozen=True)
class LayerTime:
    """One layer: its median time, what it moves and computes, and the least time for that.

    ``bytes_moved`` counts every operand and result once, ``operations`` additions and
    multiplications (0: not known).  ``floor_microseconds`` is the time of the slower of the two at
    the device's ceilings, 0 where these are not known.  What lies in a cache may be faster.
    """

    name: str
    loc: str
    tactic: str
    microseconds: float
    bytes_moved: int = 0
    operations: int = 0
    floor_microseconds: float = 0.0

    @property
    def bytes_per_second(self) -> float:
        """Bytes moved in a second."""
        return 1e6 * self.bytes_moved / self.microseconds if self.microseconds else 0.0

    @property
    def operations_per_second(self) -> float:
        """Operations in a second."""
        return 1e6 * self.operations / self.microseconds if self.microseconds else 0.0

    @property
    def times_floor(self) -> float:
        """How many times its floor a layer takes; 0 where the floor is not known."""
        return self.microseconds / self.floor_microseconds if self.floor_microseconds else 0.0

    @property
    def lost_microseconds(self) -> float:
        """The time above the floor; 0 where the floor is not known."""
        return max(0.0, self.microseconds - self.floor_microseconds) * bool(self.floor_microseconds)


@dataclass(frozen=True)
class LayerWork:
    """What a layer moves and computes; ``dtype`` is the type of its factors."""

    bytes_moved: int
    operations: int
    dtype: str

    def floor(self, ceilings: Ceilings | None) -> float:
        """Return the microseconds that it takes at least; 0 without ceilings."""
        if ceilings is None:
            return 0.0
        moving = self.bytes_moved / ceilings.bytes_per_microsecond
        rate = ceilings.operations_per_microsecond.get(self.dtype, 0.0)
        return max(moving, self.operations / rate if rate else 0.0)


@dataclass(frozen=True)
class Sizes:
    """Values of symbols; what depends on others counts 0."""

    known: Mapping[str, int] = field(default_factory=dict)

    def __call__(self, dim: Dim) -> int:
        try:
            return max(0, evaluate(dim, self.known))
        except (LaminaError, KeyError):
            return 0


def bound_sizes(program: Program, feed: Mapping[str, Any]) -> Sizes:
    """Return the values of the symbols for the shapes of inputs by name."""
    env: dict[str, int] = {}
    for port in program.inputs:
        if isinstance(port.type, TensorType) and port.name in feed:
            bind_shape(port.type, feed[port.name].shape, env, f"input {port.name!r}")
    return Sizes(env)


def layer_work(section: Section, sizes: Sizes, *, tf32: bool = False) -> list[LayerWork]:
    """Return the work of each step; with ``tf32`` products of f32 count as such."""
    counted = section.operations or (0,) * len(section.program.steps)
    return [
        LayerWork(
            _bytes_moved(section.program, step, sizes),
            sizes(count),
            _dtype(section.program, step, tf32=tf32),
        )
        for step, count in zip(section.program.steps, counted, strict=True)
    ]


def _bytes_moved(program: Program, step: Step, sizes: Sizes) -> int:
    written = sum(sizes(program.tensors[t].size_bytes) for t in dict.fromkeys(step.writes))
    read = {*step.reads, *(t for t in step.arguments if t >= 0)} - {*step.writes}
    most = written if step.name in _PICKS else None
    each = (sizes(program.tensors[t].size_bytes) for t in read)
    return written + sum(n if most is None else min(n, most) for n in each)


def _dtype(program: Program, step: Step, *, tf32: bool) -> str:
    types = [program.tensors[t].type for t in (*step.reads, *step.writes)]
    found = next((t.dtype.value for t in types if isinstance(t, TensorType)), "")
    return "tf32" if tf32 and found == "f32" else found


def layer_times(
    section: Section,
    microseconds: Sequence[float],
    work: Sequence[LayerWork],
    ceilings: Ceilings | None,
) -> list[LayerTime]:
    """Return the layers of a section with their times."""
    rows = zip(section.program.steps, microseconds, work, strict=True)
    return [
        LayerTime(s.name, s.loc, s.tactic, us, w.bytes_moved, w.operations, w.floor(ceilings))
        for s, us, w in rows
    ]
