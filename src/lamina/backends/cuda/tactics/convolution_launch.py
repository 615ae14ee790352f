"""Launches of the kernels for convolutions."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.backends.cuda.request import Boxes, Launch
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.fused import Fused
from lamina.backends.cuda.tactics.product import (
    COPY_ENGINE_SINCE,
    few_tiles,
    pieces,
    rows_of_group,
    shared,
    why_not_shared,
)
from lamina.backends.cuda.tactics.tf32 import is_tf32, packed_precision
from lamina.backends.cuda.tactics.tiles import Tile
from lamina.backends.cuda.tactics.windows import Image, Windows
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import Dim, ceildiv, dim_min, divides, floordiv, is_static
from lamina.ir.types import DType
from lamina.tactics.candidate import Role, Scratch

_VECTOR_BYTES = 16
_FEWEST_FILTERS_IN_FRONT = 64
"""Rows that a matrix instruction of 9.0 has."""
_LARGEST_OFFSET = 2**31 - 1
_OFTEN_LARGER = 16
"""What a symbolic size may be over its likeliest value before offsets are taken to be small."""

ABSENT = Image(role=Scratch(), dtype=DType.F32, batch=0, channel=0, spatial=(0, 0, 0))


@dataclass(frozen=True)
class Filters:
    """The operand of filters: strides in elements; ``packed`` ones are a constant of ours."""

    role: Role
    dtype: DType
    filter: int
    tap: int
    channel: int
    packed: bool


@dataclass(frozen=True, kw_only=True)
class Convolved:
    """All operands of a convolution."""

    windows: Windows
    x: Image
    w: Filters
    bias: tuple[Role, DType] | None
    residual: Image | None
    y: Image
    fused: Fused
    wide: bool
    deep: bool
    """Whether images have three axes, or else at most two."""


def needs_wide(sizes: list[tuple[Dim, int]]) -> bool:
    """Whether offsets need 64 bits, given (size, likeliest size) of each operand."""
    return any(
        likely * (1 if is_static(size) else _OFTEN_LARGER) > _LARGEST_OFFSET
        for size, likely in sizes
    )


def implicit_launch(c: Convolved, tile: Tile, precision: str, target: CudaTarget) -> Launch:
    """Return the launch of the implicit matrix product."""
    at = c.windows
    tiles_m, tiles_n = ceildiv(at.pixels, tile.rows), ceildiv(at.filters, tile.columns)
    programs = tiles_m * tiles_n * at.groups
    split, count = pieces(tile, programs)
    call = _call(c, "convolution", "convolution")
    shared(call, tile.split, programs, c.fused.factors is not None)
    call.sizes(PIXELS=at.pixels)
    _sizes(call, c)
    call.sizes(CHANNELS=at.channels, FILTERS=at.filters)
    pass_image(call, "X", c.x)
    call.sizes(W_FILTER=c.w.filter, W_TAP=c.w.tap, W_CHANNEL=c.w.channel)
    residual = _part(call, "RESIDUAL", c.residual, at)
    y = _part(call, "Y", c.y, at)
    call.constants(
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        BLOCK_K=tile.depth,
        SPLIT=split,
        GROUP=rows_of_group(tiles_m),
        WHOLE_N=at.filters % tile.columns == 0,
        WHOLE_K=at.channels % tile.depth == 0,
        PADDED=at.is_padded,
        DEEP=c.deep,
        Y_DENSE=y is not None and y.is_run(at.images, at.outer),
        RESIDUAL_DENSE=residual is not None and residual.is_run(at.images, at.outer),
        WIDE=c.wide,
        X_ZERO=c.fused.x_zero,
        PRECISION=packed_precision(precision, packed=c.w.packed),
        PREFETCH=target.dependent and c.w.packed and few_tiles(tiles_m),
        HALVES=tile.halves,
        DEPENDENT=target.dependent,
        **window_numbers(at),
        **c.fused.constants(),
    )
    return call.launch(
        (programs, count), warps=tile.warps, stages=tile.stages, dependent=target.dependent
    )


def boxes_launch(c: Convolved, box: tuple[int, int, int], tile: Tile, target: CudaTarget) -> Launch:
    """Return the launch of programs that work off all boxes of pixels."""
    at = c.windows
    tiles_m: Dim = 1
    for size, side in zip((at.images, *at.outer[1:]), box, strict=True):
        tiles_m = tiles_m * ceildiv(size, side)
    call = Call("boxes", "convolution_boxes")
    rounded = is_tf32(c.x.dtype, target)
    pass_pixel_boxes(call, "x", c, box, tile.depth, rounded=rounded)
    pass_filter_boxes(call, "w", c, (tile.columns, tile.depth), rounded=rounded)
    _rest(call, c)
    call.sizes(IMAGES=at.images, OUT_H=at.outer[1], OUT_W=at.outer[2])
    call.sizes(CHANNELS=at.channels, FILTERS=at.filters)
    call.sizes(X_COLUMN=c.x.spatial[2], W_TAP=c.w.tap)
    for name, image in (("RESIDUAL", c.residual), ("Y", c.y)):
        part = ABSENT if image is None else image
        call.sizes(**{f"{name}_FIRST": part.first, f"{name}_BATCH": part.batch})
        call.sizes(**{f"{name}_ROW": part.spatial[1], f"{name}_COLUMN": part.spatial[2]})
    call.direction("BACKWARDS")
    window = window_numbers(at)
    call.constants(
        BOX_N=box[0],
        BOX_H=box[1],
        BOX_W=box[2],
        BLOCK_N=tile.columns,
        BLOCK_K=tile.depth,
        GROUP=rows_of_group(tiles_m),
        HALVES=tile.halves,
        FLIPPED=tile.columns >= _FEWEST_FILTERS_IN_FRONT,
        DEPENDENT=target.dependent,
        **{name: value for name, value in window.items() if not name.endswith("_D")},
        **c.fused.constants(),
    )
    programs = dim_min(target.sms, tiles_m * ceildiv(at.filters, tile.columns))
    return call.launch(
        (programs,), warps=tile.warps, stages=tile.stages, dependent=target.dependent
    )


def pass_pixel_boxes(
    call: Call,
    name: str,
    c: Convolved | None,
    box: tuple[int, int, int],
    depth: int,
    *,
    rounded: bool = False,
) -> None:
    """Pass boxes of images, rows, columns and channels of an image of up to two axes.

    Rows and columns are cut into classes of equal remainder of the stride, each with an axis; a box
    has one class of rows, and pixels of one class of columns lie beside each other as channels do.
    """
    if c is None:
        call.boxes(name, None, ())
        return
    at = c.windows
    (_, down, across), (_, row, column) = at.strides, c.x.spatial
    sizes = (at.images, floordiv(at.inner[1], down), down, floordiv(at.inner[2], across))
    strides = (c.x.batch, down * row, row, across * column, 1)
    pixels = Boxes(c.x.role, c.x.dtype, (*sizes, across * column), strides, rounded)
    call.boxes(name, pixels, (box[0], box[1], 1, box[2], depth))


def pass_filter_boxes(
    call: Call, name: str, c: Convolved | None, box: tuple[int, int], *, rounded: bool = False
) -> None:
    """Pass boxes of filters and of what each has of taps and channels, which are one axis."""
    if c is None:
        call.boxes(name, None, ())
        return
    sizes, strides = (c.windows.filters, c.w.filter), (c.w.filter, 1)
    call.boxes(name, Boxes(c.w.role, c.w.dtype, sizes, strides, rounded), box)


def direct_launch(
    c: Convolved, rows: int, columns: int, filters: int, warps: int, target: CudaTarget
) -> Launch:
    """Return the launch of the kernel without matrix units; 0 rows: one, by a loop over taps."""
    at = c.windows
    d, h, w = at.outer
    high = max(rows, 1)
    pixels = ceildiv(w, columns) * ceildiv(h, high) * d * at.images
    call = _call(c, "direct", "direct")
    _sizes(call, c)
    call.sizes(CHANNELS=at.channels, FILTERS_EACH=at.filters, FILTERS=at.filters * at.groups)
    call.sizes(X_BATCH=c.x.batch, X_CHANNEL=c.x.channel)
    _spatial(call, "X", c.x)
    call.sizes(W_FILTER=c.w.filter, W_TAP=c.w.tap, W_CHANNEL=c.w.channel)
    for name, image in (("RESIDUAL", c.residual), ("Y", c.y)):
        part = ABSENT if image is None else at.part(image)
        call.sizes(**{f"{name}_FIRST": part.first, f"{name}_BATCH": part.batch})
        call.sizes(**{f"{name}_CHANNEL": part.channel})
        _spatial(call, name, part)
    call.constants(
        ROWS=high,
        BLOCK_W=columns,
        BLOCK_C=filters,
        PADDED=at.is_padded,
        WIDE=c.wide,
        UNROLL=rows > 0,
        X_ZERO=c.fused.x_zero,
        DEPENDENT=target.dependent,
        **window_numbers(at),
        **c.fused.constants(),
    )
    grid = (pixels, ceildiv(at.filters * at.groups, filters))
    return call.launch(grid, warps=warps, stages=1, dependent=target.dependent)


def few_launch(
    c: Convolved, table: Role, depth: int, words: bool, tile: Tile, precision: str,
    target: CudaTarget,
) -> Launch:  # fmt: skip
    """Return the launch of the kernel for few channels; with ``words`` c counts in words."""
    at = c.windows
    call = Call("few_channels", "few_channels")
    call.pointer("x", c.x.role, c.x.dtype)
    call.pointer("w", c.w.role, c.w.dtype)
    call.pointer("table", table)
    _rest(call, c)
    call.sizes(PIXELS=at.pixels)
    _sizes(call, c)
    call.sizes(FILTERS=at.filters)
    pass_image(call, "X", c.x)
    residual = _part(call, "RESIDUAL", c.residual, at, first=False)
    y = _part(call, "Y", c.y, at, first=False)
    names = ("STRIDE_D", "STRIDE_H", "STRIDE_W", "PAD_D", "PAD_H", "PAD_W")
    window = window_numbers(at)
    call.constants(
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        BLOCK_K=tile.depth,
        DEPTH=depth,
        WORDS=words,
        DEEP=c.deep,
        Y_DENSE=y is not None and y.is_run(at.images, at.outer),
        RESIDUAL_DENSE=residual is not None and residual.is_run(at.images, at.outer),
        WIDE=c.wide,
        PRECISION=packed_precision(precision, packed=c.w.packed),
        X_ZERO=c.fused.x_zero,
        DEPENDENT=target.dependent,
        **{name: window[name] for name in names},
        **c.fused.constants(),
    )
    grid = (ceildiv(at.pixels, tile.rows), ceildiv(at.filters, tile.columns))
    return call.launch(grid, warps=tile.warps, stages=tile.stages, dependent=target.dependent)


def boxes_fit(c: Convolved, target: CudaTarget) -> str:
    """Return why descriptors cannot describe the operands of a convolution; "" when they can."""
    at = c.windows
    if target.arch < COPY_ENGINE_SINCE:
        return "this GPU has no copy engine"
    if why := why_not_shared(c.x.dtype, target):
        return why
    if c.fused.x_zero and at.is_padded:
        return "padding does not stand for 0"
    if at.groups != 1 or c.deep or at.every != (1, 1, 1) or not c.w.packed:
        return "it takes constant filters in one group over one or two axes"
    if at.strides[0] != 1:
        return "it takes no stride along the depth"
    if not all(is_static(s) for s in at.inner):
        return "the size of the image is not known"
    if any(int(n) % s for n, s in zip(at.inner, at.strides, strict=True)):  # type: ignore[arg-type]
        return "strides do not divide the image"
    strides = (c.x.batch, *c.x.spatial[1:], c.w.filter)
    unit = _VECTOR_BYTES // c.x.dtype.itemsize
    if not all(divides(unit, s) for s in strides):
        return "pixels do not begin at multiples of 16 bytes"
    return ""


def _call(c: Convolved, module: str, function: str) -> Call:
    call = Call(module, function)
    call.pointer("x", c.x.role, c.x.dtype)
    call.pointer("w", c.w.role, c.w.dtype)
    _rest(call, c)
    return call


def _rest(call: Call, c: Convolved) -> None:
    c.fused.vectors(call)
    pass_added(call, c)


def pass_operands(call: Call, c: Convolved) -> None:
    """Pass the operands and the result of a convolution of numbers that are not quantized."""
    call.pointer("x", c.x.role, c.x.dtype)
    call.pointer("w", c.w.role, c.w.dtype)
    pass_added(call, c)


def pass_added(call: Call, c: Convolved) -> None:
    """Pass bias, residual and result of a convolution."""
    pass_bias(call, "bias", c)
    for name, image in (("residual", c.residual), ("y", c.y)):
        if image is None:
            call.pointer(name, None)
        else:
            call.pointer(name, image.role, image.dtype)


def pass_bias(call: Call, name: str, c: Convolved | None) -> None:
    """Pass the bias of a convolution, if there are such."""
    if c is None or c.bias is None:
        call.pointer(name, None)
    else:
        call.pointer(name, *c.bias)


def _sizes(call: Call, c: Convolved) -> None:
    for name, sizes in (("IN", c.windows.inner), ("OUT", c.windows.outer)):
        call.sizes(**{f"{name}_{a}": size for a, size in zip("DHW", sizes, strict=True)})


def window_numbers(at: Windows) -> dict[str, int]:
    """Return the constants that say how windows lie."""
    rows = (("TAPS", at.taps), ("STRIDE", at.strides), ("DILATION", at.dilations), ("PAD", at.pads))
    return {
        f"{name}_{axis}": value
        for name, values in rows
        for axis, value in zip("DHW", values, strict=True)
    }


def pass_image(call: Call, name: str, image: Image) -> None:
    """Pass the strides of an image."""
    call.sizes(**{f"{name}_BATCH": image.batch})
    _spatial(call, name, image)


def _spatial(call: Call, name: str, image: Image) -> None:
    names = (f"{name}_DEPTH", f"{name}_ROW", f"{name}_COLUMN")
    call.sizes(**dict(zip(names, image.spatial, strict=True)))


def _part(
    call: Call, name: str, image: Image | None, at: Windows, *, first: bool = True
) -> Image | None:
    """Pass where the results lie in an operand that holds all; return it."""
    part = None if image is None else at.part(image)
    passed = part or ABSENT
    if first:
        call.sizes(**{f"{name}_FIRST": passed.first})
    pass_image(call, name, passed)
    return part
