"""Launches of the kernels for convolutions that share a sum or feed each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lamina.backends.cuda.request import Launch, Number
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.convolution_launch import (
    ABSENT,
    Convolved,
    pass_image,
    window_numbers,
)
from lamina.backends.cuda.tactics.product import few_tiles, pieces, rows_of_group, shared
from lamina.backends.cuda.tactics.tf32 import packed_precision
from lamina.backends.cuda.tactics.tiles import Tile
from lamina.backends.cuda.tactics.windows import Image
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import ceildiv, dim_min, divides
from lamina.ops import Epilogue

SMALLEST: Final = 16
"""Channels that matrix units take at least."""


@dataclass(frozen=True)
class ChainTile:
    """Rows, columns of a part of the middle, depth of a step in front, warps, steps in flight.

    ``stays``: programs keep the filters and go on from tile to tile.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    stays: bool = False

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}x{self.depth} w{self.warps} s{self.stages}"


def padded(size: int) -> int:
    """Return the number of channels that a kernel counts with."""
    return max(SMALLEST, 1 << (size - 1).bit_length())


def pair_launch(
    c: Convolved, d: Convolved, tile: Tile, precision: str, target: CudaTarget
) -> Launch:
    """Return the launch of the sum of two convolutions."""
    at, other = c.windows, d.windows
    tiles_m, tiles_n = ceildiv(at.pixels, tile.rows), ceildiv(at.filters, tile.columns)
    merged = all(w.reads_one_pixel and w.channels % tile.depth == 0 for w in (at, other))
    split, count = pieces(tile, tiles_m * tiles_n)
    call = Call("chained", "paired")
    call.pointer("x", c.x.role, c.x.dtype)
    call.pointer("w", c.w.role, c.w.dtype)
    call.pointer("z", d.x.role, d.x.dtype)
    call.pointer("v", d.w.role, d.w.dtype)
    _bias(call, "bias", c)
    _bias(call, "other_bias", d)
    call.pointer("y", c.y.role, c.y.dtype)
    shared(call, tile.split, tiles_m * tiles_n, False)
    call.sizes(PIXELS=at.pixels, FILTERS=at.filters)
    pass_axes(call, "OUT", c, outer=True)
    pass_axes(call, "IN", c)
    call.sizes(CHANNELS=at.channels)
    pass_image(call, "X", c.x)
    call.sizes(W_FILTER=c.w.filter, W_TAP=c.w.tap)
    pass_axes(call, "Z_IN", d)
    call.sizes(Z_CHANNELS=other.channels)
    pass_image(call, "Z", d.x)
    call.sizes(V_FILTER=d.w.filter, V_TAP=d.w.tap)
    pass_image(call, "Y", c.y)
    call.direction("BACKWARDS")
    call.constants(
        PADDED=at.is_padded,
        Z_PADDED=other.is_padded,
        WHOLE_K=at.channels % tile.depth == 0,
        Z_WHOLE_K=other.channels % tile.depth == 0,
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        BLOCK_K=tile.depth,
        SPLIT=split,
        GROUP=rows_of_group(tiles_m),
        WHOLE_N=at.filters % tile.columns == 0,
        DEEP=c.deep,
        Y_DENSE=c.y.is_run(at.images, at.outer),
        WIDE=c.wide or d.wide,
        PRECISION=packed_precision(precision, packed=c.w.packed and d.w.packed),
        HALVES=tile.halves,
        MERGED=merged,
        PREFETCH=target.dependent and few_tiles(tiles_m),
        DEPENDENT=target.dependent,
        **_windows(c, ""),
        **_windows(d, "Z_"),
        **activation_numbers(c.fused.activation, ""),
    )
    return call.launch(
        (tiles_m * tiles_n, count),
        warps=tile.warps,
        stages=tile.stages,
        dependent=target.dependent,
    )


@dataclass(frozen=True)
class Parts:
    """The convolutions of a chain with their operands; the middle's result may be ``stored``."""

    front: Convolved | None
    middle: Convolved
    other: Convolved | None
    back: Convolved | None
    stored: bool

    @property
    def residual(self) -> Image | None:
        """Return what the middle adds from memory."""
        return None if self.other is not None else self.middle.residual


def chain_launch(p: Parts, tile: ChainTile, wide: bool, target: CudaTarget) -> Launch:
    """Return the launch of convolutions that feed each other."""
    front, middle, other, back = p.front, p.middle, p.other, p.back
    source, at = front or middle, middle.windows
    call = Call("chained", "chained_tiles" if tile.stays else "chained")
    call.pointer("x", source.x.role, source.x.dtype)
    if not tile.stays:
        pass_filters(call, ("front", "front_bias"), front)
    pass_filters(call, ("w", "bias"), middle)
    call.pointer("z", None if other is None else other.x.role, middle.x.dtype)
    pass_filters(call, ("v", "other_bias"), other)
    call.pointer("residual", None if p.residual is None else p.residual.role, middle.x.dtype)
    call.pointer("y", middle.y.role if p.stored else None, middle.y.dtype)
    pass_filters(call, ("back", "back_bias"), back)
    call.pointer("last", None if back is None else back.y.role, middle.y.dtype)
    call.sizes(PIXELS=at.pixels)
    pass_axes(call, "OUT", middle, outer=True)
    if not tile.stays:
        pass_axes(call, "IN", source)
        call.sizes(CHANNELS=source.windows.channels)
    pass_image(call, "X", source.x)
    if not tile.stays:
        call.sizes(FRONT_FILTER=front.w.filter if front else 0)
        call.sizes(FRONT_TAP=front.w.tap if front else 0)
    call.sizes(DEPTH=at.channels, W_FILTER=middle.w.filter)
    call.sizes(Z_CHANNELS=other.windows.channels if other else 0)
    pass_image(call, "Z", other.x if other else ABSENT)
    call.sizes(V_FILTER=other.w.filter if other else 0, FILTERS=at.filters)
    pass_image(call, "RESIDUAL", p.residual or ABSENT)
    pass_image(call, "Y", middle.y if p.stored else ABSENT)
    call.sizes(BACK_FILTERS=back.windows.filters if back else 0)
    call.sizes(BACK_FILTER=back.w.filter if back else 0)
    pass_image(call, "LAST", back.y if back else ABSENT)
    call.direction("BACKWARDS")
    call.constants(**_chain_constants(p, tile, wide, target))
    count = ceildiv(at.pixels, tile.rows)
    return call.launch(
        (dim_min(target.sms, count) if tile.stays else count,),
        warps=tile.warps,
        stages=3,
        dependent=target.dependent,
    )


def _chain_constants(
    p: Parts, tile: ChainTile, wide: bool, target: CudaTarget
) -> dict[str, Number]:
    front, middle, other, back = p.front, p.middle, p.other, p.back
    source, at = front or middle, middle.windows
    stored = [p.residual, middle.y if p.stored else None, back.y if back else None]
    strides = (other or middle).windows.strides
    numbers: dict[str, Number] = {f"Z_STRIDE_{a}": s for a, s in zip("DHW", strides, strict=True)}
    numbers |= {
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.columns,
        "FRONT_N": padded(at.channels),
        "Z_SIZE": padded(other.windows.channels) if other else SMALLEST,
        "BACK_N": padded(back.windows.filters) if back else SMALLEST,
        "STAGES": tile.stages,
        "WHOLE_M": divides(tile.rows, at.pixels),
        "WIDE": wide,
        "DENSE": all(i is None or i.is_run(at.images, at.outer) for i in stored),
        "DEPENDENT": target.dependent,
    }
    numbers |= activation_numbers(middle.fused.activation, "")
    numbers |= activation_numbers(back.fused.activation if back else None, "BACK_")
    if not tile.stays:
        numbers |= {"PADDED": source.windows.is_padded, "BLOCK_K": tile.depth, "DEEP": middle.deep}
        numbers |= _windows(source, "")
        numbers |= activation_numbers(front.fused.activation if front else None, "FRONT_")
    return numbers


def pass_filters(call: Call, names: tuple[str, str], c: Convolved | None) -> None:
    """Pass filters and bias under two names; without a convolution they are absent."""
    if c is None:
        for name in names:
            call.pointer(name, None)
        return
    call.pointer(names[0], c.w.role, c.w.dtype)
    _bias(call, names[1], c)


def _bias(call: Call, name: str, c: Convolved) -> None:
    if c.bias is None:
        call.pointer(name, None)
    else:
        call.pointer(name, *c.bias)


def pass_axes(call: Call, name: str, c: Convolved, *, outer: bool = False) -> None:
    """Pass the sizes of the image, or of the result."""
    sizes = c.windows.outer if outer else c.windows.inner
    call.sizes(**{f"{name}_{a}": size for a, size in zip("DHW", sizes, strict=True)})


def _windows(c: Convolved, prefix: str) -> dict[str, int]:
    return {f"{prefix}{name}": value for name, value in window_numbers(c.windows).items()}


def activation_numbers(a: Epilogue | None, prefix: str) -> dict[str, Number]:
    """Return the constants that name an activation."""
    return {
        f"{prefix}KIND": a.kind.value if a else None,
        f"{prefix}ALPHA": a.alpha if a else 0.0,
        f"{prefix}BETA": a.beta if a else 0.0,
    }
