"""Matrix products in memory of any strides, as launches of the kernels for them."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.backends.cuda.request import Boxes, Counters, CudaDraft
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.fused import Fused
from lamina.backends.cuda.tactics.tf32 import is_tf32, packed_precision
from lamina.backends.cuda.tactics.tiles import Tile
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import Dim, ceildiv, dim_max, dim_min, divides, floordiv, is_static, product
from lamina.ir.types import DType
from lamina.tactics.candidate import Role, Scratch

COPY_ENGINE_SINCE = 90
_VECTOR_BYTES = 16
_SUM_BYTES = 4
_ROWS_OF_GROUP = 8
_PREFETCHED_TILES = 128
"""Rows of tiles up to which weights are asked for early, by each a part: of more, the first ones
bring them into L2 for the rest."""
_MOST_SHARES = 320
"""About two programs for each processor of the largest GPUs; more shares gain nothing."""


@dataclass(frozen=True)
class Matrix:
    """An operand: its strides in elements along rows, columns and the two axes of matrices."""

    role: Role
    dtype: DType
    row: Dim
    column: Dim
    outer: Dim = 0
    inner: Dim = 0


@dataclass(frozen=True, kw_only=True)
class Product:
    """``rows`` x ``depth`` times ``depth`` x ``columns``, ``outer`` * ``inner`` times.

    ``packed``: b is a constant whose columns are contiguous and begin at multiples of 16 bytes.
    """

    rows: Dim
    columns: Dim
    depth: Dim
    outer: Dim = 1
    inner: Dim = 1
    a: Matrix
    b: Matrix
    bias: Matrix | None
    residual: Matrix | None
    y: Matrix
    fused: Fused
    packed: bool


def matmul_draft(p: Product, tile: Tile, precision: str, target: CudaTarget) -> CudaDraft:
    """Return the launch of one tile for each program."""
    tiles_m, tiles_n = ceildiv(p.rows, tile.rows), ceildiv(p.columns, tile.columns)
    programs = tiles_m * tiles_n * p.outer * p.inner
    split, count = pieces(tile, programs)
    call = Call("matmul", "matmul")
    call.pointer("a", p.a.role, p.a.dtype)
    call.pointer("b", p.b.role, p.b.dtype)
    p.fused.vectors(call)
    pass_added(call, p)
    shared(call, tile.split, programs, p.fused.factors is not None)
    call.sizes(M=p.rows, N=p.columns, K=p.depth)
    for name, matrix in _named(p):
        call.sizes(**{f"{name}_ROW": matrix.row, f"{name}_COLUMN": matrix.column})
    call.sizes(INNER=p.inner)
    for name, matrix in _named(p):
        call.sizes(**{f"{name}_OUTER": matrix.outer, f"{name}_INNER": matrix.inner})
    call.constants(
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        BLOCK_K=tile.depth,
        SPLIT=split,
        GROUP=rows_of_group(tiles_m),
        WHOLE_A=divides(tile.rows, p.rows),
        WHOLE_B=divides(tile.columns, p.columns),
        WHOLE_K=divides(tile.depth, p.depth),
        BIAS_IS_ROW=p.bias is not None and p.bias.row == 0,
        PRECISION=packed_precision(precision, packed=p.packed),
        PREFETCH=target.dependent and p.packed and few_tiles(tiles_m),
        HALVES=tile.halves,
        DEPENDENT=target.dependent,
        **p.fused.constants(),
    )
    launch = call.launch(
        (programs, count), warps=tile.warps, stages=tile.stages, dependent=target.dependent
    )
    return CudaDraft(launches=(launch,), workspace_bytes=shared_bytes(tile, programs))


def matvec_draft(p: Product, tile: Tile, target: CudaTarget) -> CudaDraft:
    """Return the launch for a few rows, all of them in each program."""
    tiles_n = ceildiv(p.columns, tile.columns)
    call = Call("matvec", "matvec")
    call.pointer("a", p.a.role, p.a.dtype)
    call.pointer("b", p.b.role, p.b.dtype)
    pass_added(call, p)
    shared(call, tile.split, tiles_n, False)
    residual = p.residual.row if p.residual else 0
    call.sizes(N=p.columns, K=p.depth, A_ROW=p.a.row, B_COLUMN=p.b.column)
    call.sizes(RESIDUAL_ROW=residual, Y_ROW=p.y.row)
    fused = p.fused.constants()
    call.constants(
        ROWS=tile.rows,
        BLOCK_N=tile.columns,
        BLOCK_K=tile.depth,
        SPLIT=tile.split,
        WHOLE_N=divides(tile.columns, p.columns),
        WHOLE_K=divides(tile.depth, p.depth),
        PREFETCH=target.dependent,
        DEPENDENT=target.dependent,
        **{name: fused[name] for name in ("KIND", "ALPHA", "BETA")},
    )
    launch = call.launch(
        (tiles_n, tile.split), warps=tile.warps, stages=tile.stages, dependent=target.dependent
    )
    return CudaDraft(launches=(launch,), workspace_bytes=shared_bytes(tile, tiles_n))


def boxes_draft(p: Product, tile: Tile, target: CudaTarget) -> CudaDraft:
    """Return the launch of programs that work off all tiles, operands through descriptors."""
    tiles_m, tiles_n = ceildiv(p.rows, tile.rows), ceildiv(p.columns, tile.columns)
    call = boxes_call(p, ("boxes", "matmul_boxes"), tile, tiles_m, target)
    call.constants(HALVES=tile.halves)
    programs = dim_min(target.sms, tiles_m * tiles_n)
    launch = call.launch(
        (programs,), warps=tile.warps, stages=tile.stages, dependent=target.dependent
    )
    return CudaDraft(launches=(launch,))


def boxes_call(
    p: Product,
    kernel: tuple[str, str],
    tile: Tile,
    tiles_m: Dim,
    target: CudaTarget,
    stored: tuple[int, int] | None = None,
) -> Call:
    """Return the call of a kernel, by module and name, that reads operands in boxes.

    With ``stored`` it writes results in boxes of this shape.
    """
    call = Call(*kernel)
    pass_factors(call, p, (tile.rows, tile.depth), (tile.columns, tile.depth), target)
    p.fused.vectors(call)
    pass_added(call, p, stored)
    call.sizes(M=p.rows, N=p.columns, K=p.depth)
    call.sizes(RESIDUAL_ROW=p.residual.row if p.residual else 0)
    if stored is None:
        call.sizes(Y_ROW=p.y.row)
    call.direction("BACKWARDS")
    call.constants(
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns,
        BLOCK_K=tile.depth,
        GROUP=rows_of_group(tiles_m),
        DEPENDENT=target.dependent,
        **p.fused.constants(),
    )
    return call


def pass_factors(
    call: Call, p: Product, left: tuple[int, int], right: tuple[int, int], target: CudaTarget
) -> None:
    """Pass both factors in boxes, the second one as rows that are columns of the matrix."""
    rounded = is_tf32(p.a.dtype, target)
    a = Boxes(p.a.role, p.a.dtype, (p.rows, p.depth), (p.a.row, 1), rounded)
    b = Boxes(p.b.role, p.b.dtype, (p.columns, p.depth), (p.b.column, 1), rounded)
    call.boxes("a", a, left)
    call.boxes("b", b, right)


def not_simple(p: Product) -> str:
    """Return why a product is more than one packed product with a bias row; "" when it is not."""
    if not p.packed:
        return "the second operand is no constant matrix"
    if p.outer != 1 or p.inner != 1:
        return "there are several matrices"
    if p.a.column != 1 or p.y.column != 1 or (p.residual is not None and p.residual.column != 1):
        return "rows of an operand are not contiguous"
    if p.bias is not None and (p.bias.row != 0 or p.bias.column != 1):
        return "the bias is no row"
    return ""


def why_not_boxes(p: Product, target: CudaTarget) -> str:
    """Return why descriptors cannot describe the operands of a product; "" when they can."""
    if target.arch < COPY_ENGINE_SINCE:
        return "this GPU has no copy engine"
    if why := why_not_shared(p.a.dtype, target):
        return why
    if why := not_simple(p):
        return why
    unit = _VECTOR_BYTES // p.a.dtype.itemsize
    if not all(divides(unit, stride) for stride in (p.a.row, p.b.column)):
        return "rows do not begin at multiples of 16 bytes"
    return ""


def why_not_shared(dtype: DType, target: CudaTarget) -> str:
    """Return why matrix units cannot read operands of a type as they lie in shared memory."""
    if dtype is DType.U8 or (dtype is DType.F32 and not target.tf32):
        return f"matrix units do not take {dtype} as it is"
    return ""


def padded_depth(depth: int, dtype: DType) -> int:
    """Return the elements of a column of which the next begins at a multiple of 16 bytes."""
    unit = _VECTOR_BYTES // dtype.itemsize
    return -(-depth // unit) * unit


def shared(call: Call, split: int, programs: Dim, integers: bool) -> None:
    """Pass memory for sums that several programs share, and a counter for each tile."""
    joined = split > 1
    tiles = int(programs) if is_static(programs) else _MOST_SHARES // 2  # type: ignore[arg-type]
    call.pointer("partial", Scratch() if joined else None, DType.I32 if integers else DType.F32)
    call.pointer("counters", Counters(tiles) if joined else None)


def shared_bytes(tile: Tile, programs: Dim) -> Dim:
    """Return the bytes of workspace for sums that several programs share."""
    if tile.split == 1:
        return 0
    count = product((programs, tile.split)) if is_static(programs) else _MOST_SHARES
    return product((count, tile.rows * tile.columns * _SUM_BYTES))


def pieces(tile: Tile, programs: Dim) -> tuple[int, Dim]:
    """Return what a kernel is told of the programs that share a tile, and their number.

    Where the number of tiles follows from shapes, that of shares does too, which the kernel is
    told as 0: with many tiles nothing is shared, so that memory for shares is bounded.
    """
    if tile.split == 1 or is_static(programs):
        return tile.split, tile.split
    return 0, dim_max(1, dim_min(tile.split, floordiv(_MOST_SHARES, dim_max(1, programs))))


def rows_of_group(tiles_m: Dim) -> int:
    """Return how many rows of tiles run at the same time."""
    return 1 if is_static(tiles_m) and int(tiles_m) == 1 else _ROWS_OF_GROUP  # type: ignore[arg-type]


def few_tiles(tiles_m: Dim) -> bool:
    """Whether so few rows of tiles exist that asking for weights early pays."""
    return is_static(tiles_m) and int(tiles_m) <= _PREFETCHED_TILES  # type: ignore[arg-type]


def _named(p: Product) -> list[tuple[str, Matrix]]:
    absent = Matrix(Scratch(), DType.F32, 0, 0)
    return [
        ("A", p.a),
        ("B", p.b),
        ("BIAS", p.bias or absent),
        ("RESIDUAL", p.residual or absent),
        ("Y", p.y),
    ]


def pass_added(call: Call, p: Product, stored: tuple[int, int] | None = None) -> None:
    """Pass bias, residual and result, the latter for ``stored`` in boxes of this shape."""
    for name, matrix in (("bias", p.bias), ("residual", p.residual)):
        if matrix is None:
            call.pointer(name, None)
        else:
            call.pointer(name, matrix.role, matrix.dtype)
    if stored is None:
        call.pointer("y", p.y.role, p.y.dtype)
    else:
        call.boxes("y", Boxes(p.y.role, p.y.dtype, (p.rows, p.columns), (p.y.row, 1)), stored)
