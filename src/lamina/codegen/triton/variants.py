"""The ways to run loop nests as Triton kernels, each with an estimate of its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.codegen.kernel_source import NestKernel
from lamina.codegen.nest import LoopNest
from lamina.codegen.triton.cost import LAUNCH_MICROSECONDS, Rates, microseconds
from lamina.codegen.triton.kernel import TritonKernel, nest_kernel
from lamina.codegen.triton.schedule import Sizes, accesses, tiles, touched_bytes
from lamina.codegen.triton.tile import Tile
from lamina.ir.dims import Dim, is_static

_FAR = 1 << 31
_SAFE = 1 << 29
"""The most elements that a tensor with symbolic sizes may likely have for 32-bit places."""


@dataclass(frozen=True)
class Variant:
    """Kernels that run one after the other; ``name`` tells variants of one nest apart."""

    name: str
    kernels: tuple[TritonKernel, ...]
    workspace_bytes: Dim
    microseconds: float


def variants(
    source: NestKernel, rates: Rates, constants: frozenset[int] = frozenset()
) -> list[Variant]:
    """Return the variants of a generated kernel; none launches what computes nothing.

    ``constants`` are the operands that no kernel writes.

    Raises Refusal for what has no Triton form.
    """
    phases = [[n for n in phase if not is_empty(n)] for phase in source.nests]
    choices = [
        [(n, tiles(n, rates.processors, rates.env)) for n in phase] for phase in phases if phase
    ]
    count = max((len(t) for phase in choices for _, t in phase), default=1)
    found: dict[tuple[tuple[Tile, ...], ...], Variant] = {}
    for number in range(count):
        chosen = [[(n, t[min(number, len(t) - 1)]) for n, t in phase] for phase in choices]
        key = tuple(tuple(t for _, t in phase) for phase in chosen)
        if key not in found:
            found[key] = _variant(chosen, source.workspace, rates, constants)
    return list(found.values())


def _variant(
    phases: Sequence[Sequence[tuple[LoopNest, Tile]]],
    workspace: Dim,
    rates: Rates,
    constants: frozenset[int],
) -> Variant:
    kernels, names, time = [], [], 0.0
    for phase in phases:
        wide = any(_is_wide(n, rates) for n, _ in phase)
        kernels.append(nest_kernel(phase, _name(phase), wide=wide, constants=constants))
        names.append(str(phase[0][1]))
        time += LAUNCH_MICROSECONDS + sum(microseconds(n, t, rates) for n, t in phase)
    return Variant(" / ".join(names), tuple(kernels), workspace, time)


def is_empty(nest: LoopNest) -> bool:
    """Whether a nest writes nothing."""
    return not nest.stores or any(d.size == 0 and not d.reduced for d in nest.dims)


def _name(phase: Sequence[tuple[LoopNest, Tile]]) -> str:
    """Return what profilers show."""
    nest, tile = phase[0]
    if len(phase) > 1:
        return "joined"
    if nest.has_folds:
        return "reduction"
    return "transposed" if tile.y_block > 1 and tile.x_block > 1 else "pointwise"


def _is_wide(nest: LoopNest, rates: Rates) -> bool:
    """Whether places in memory may need more than 32 bits."""
    sizes = Sizes(rates.env)
    for a in accesses(nest):
        static = all(is_static(d.size) for d in nest.dims) and all(map(is_static, a.strides))
        limit = _FAR if static else _SAFE
        reach = sizes(a.offset) + sum(
            abs(sizes(s)) * (sizes(d.size) - 1) for s, d in zip(a.strides, nest.dims, strict=True)
        )
        reach += sum(abs(sizes(s)) for _, s in a.dynamic)
        if max(reach, touched_bytes(nest, a, sizes) // a.dtype.itemsize) >= limit:
            return True
    return False
