"""Products that normalize what they read, and sum what the products behind them normalize."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from lamina.backends.cuda.request import CudaDraft
from lamina.backends.cuda.tactics.call import Call
from lamina.backends.cuda.tactics.fused import Fused
from lamina.backends.cuda.tactics.matmul_case import pack_columns
from lamina.backends.cuda.tactics.product import (
    few_tiles,
    padded_depth,
    pieces,
    rows_of_group,
    shared,
    shared_bytes,
)
from lamina.backends.cuda.tactics.tiles import Tile, Work, promising, tiles
from lamina.backends.cuda.tactics.uneven import uneven_tiles
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import Dim, ceildiv, divides, evaluate, product
from lamina.ir.graph import Array, Node, Value
from lamina.ir.pattern import Reject
from lamina.ir.threads import cast
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.ops import LayerNorm, Matmul, Region
from lamina.passes.constants import widened
from lamina.passes.row_norms import KIND
from lamina.tactics.candidate import (
    Candidate,
    Packed,
    Placement,
    Read,
    Role,
    Write,
    constant,
    sizes_known,
)
from lamina.tactics.form import Form

_SINCE: Final = 80
_SUMMED_BYTES_PER_MICROSECOND: Final = 2e4
"""Of sums, what one program reads and adds up."""


class TritonNormed:
    """Tiles of a product with the norms around it in its epilogue."""

    name = "triton-matmul-normed"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer the tiles of the product that hold whole groups of columns."""
        if not isinstance(node.op, Region) or node.op.kind != KIND:
            return None
        case = _Case.of(node)
        if why := case.refusal(target):
            return Reject(why)
        found = [(cost + case.more_microseconds(t), str(t), t) for t, cost in _tiles(case, target)]
        return (
            [
                Candidate(
                    tactic=f"{self.name} {name}",
                    reads=case.reads,
                    writes=(Form.PLAIN,) * len(node.outputs),
                    estimate_microseconds=cost,
                    draft=_draft(case, tile, target),  # type: ignore[arg-type]
                    takes_strides=False,
                )
                for cost, name, tile in sorted(found, key=lambda f: f[:2])
            ]
            or Reject("no tile holds whole groups of columns")
        )


@dataclass(frozen=True)
class _Norm:
    """A layer norm of an operand, with the numbers of scale, shift and sums among the operands."""

    epsilon: float
    scale: int | None
    shift: int | None
    sums: tuple[int, int]


@dataclass(frozen=True)
class _Case:
    """A region: ``x``, ``w``, ``bias`` and ``residual`` are the numbers of its operands."""

    region: Node
    op: Matmul
    x: int
    w: int
    bias: int | None
    residual: int | None
    rows: _Norm | None
    rest: _Norm | None

    @staticmethod
    def of(node: Node) -> _Case:
        """Return the case of a region."""
        assert isinstance(node.op, Region)
        body = node.op.body
        (multiply,) = (n for n in body.nodes() if isinstance(n.op, Matmul))
        assert isinstance(multiply.op, Matmul)
        norms = [_norm_of(v) for v in multiply.inputs]
        unread = [i for i, v in enumerate(body.inputs) if not body.uses(v)]

        def number(index: int) -> int | None:
            if index >= len(multiply.inputs):
                return None
            norm = norms[index]
            return body.inputs.index(multiply.inputs[index] if norm is None else _rows_of(norm))

        def around(index: int) -> _Norm | None:
            norm = norms[index] if index < len(norms) else None
            if norm is None:
                return None
            assert isinstance(norm.op, LayerNorm)
            vectors = [body.inputs.index(v) for v in norm.inputs[1:]]
            scale, shift = (*vectors, None, None)[:2]
            return _Norm(norm.op.epsilon, scale, shift, (unread.pop(0), unread.pop(0)))

        x, w = number(0), number(1)
        assert x is not None and w is not None
        rows, rest = around(0), around(3)
        return _Case(node, multiply.op, x, w, number(2), number(3), rows, rest)

    @property
    def dtype(self) -> DType:
        """Type of the rows."""
        return self.region.inputs[self.x].tensor.dtype

    @property
    def depth(self) -> int:
        """Length of a row."""
        return int(self.region.inputs[self.x].tensor.shape[-1])  # type: ignore[arg-type]

    @property
    def columns(self) -> int:
        """Columns of the product."""
        return int(self.region.outputs[0].tensor.shape[-1])  # type: ignore[arg-type]

    @property
    def count(self) -> Dim:
        """Number of rows."""
        return product(self.region.inputs[self.x].tensor.shape[:-1])

    @property
    def summed(self) -> int:
        """Columns of a group of the result, 0 where there are no sums."""
        if len(self.region.outputs) == 1:
            return 0
        return self.columns // int(self.region.outputs[1].tensor.shape[-1])  # type: ignore[arg-type]

    @property
    def given(self) -> set[int]:
        """Operands that are computed: others are constants, read before the kernel ahead ends."""
        sums = (i for n in (self.rows, self.rest) if n is not None for i in n.sums)
        return {i for i in (self.x, self.residual, *sums) if i is not None}

    @property
    def reads(self) -> tuple[Form | None, ...]:
        """Forms of the operands."""
        vectors = () if self.rest is None else (self.rest.scale, self.rest.shift)
        as_they_are = {*self.given, *vectors}  # others are packed
        count = len(self.region.inputs)
        return tuple(Form.PLAIN if i in as_they_are else None for i in range(count))

    def refusal(self, target: CudaTarget) -> str:
        """Return why the kernel cannot run the region; "" when it can."""
        inputs, given = self.region.inputs, self.given
        if target.arch < _SINCE:
            return "it needs compute capability 8.0"
        if any(constant(v) is None for i, v in enumerate(inputs) if i not in given):
            return "weights, scale and shift must be constant"
        if self.bias is not None and inputs[self.bias].tensor.size != self.columns:
            return "the bias is no row"
        y = self.region.outputs[0].type
        if self.residual is not None and inputs[self.residual].type != y:
            return "the residual is repeated"
        if not sizes_known(self.region, target.env):
            return "data decides a size"
        if any(0 in v.tensor.shape for v in (*inputs, *self.region.outputs)):
            return "there are no rows"
        return ""

    def work(self, target: CudaTarget) -> Work:
        """Return the sizes of the product."""
        env = target.env
        values = (*self.region.inputs, *self.region.outputs)
        moved = sum(evaluate(v.tensor.size, env) * v.tensor.dtype.itemsize for v in values)
        return Work(
            rows=evaluate(self.count, env),
            columns=self.columns,
            depth=self.depth,
            dtype=self.dtype,
            moved_bytes=float(moved),
        )

    def more_microseconds(self, tile: Tile) -> float:
        """Return what sums of rows cost a program."""
        norms = [n for n in (self.rows, self.rest) if n is not None]
        groups = sum(self.groups(n) for n in norms)
        return 2 * groups * tile.rows * DType.F32.itemsize / _SUMMED_BYTES_PER_MICROSECOND

    def groups(self, norm: _Norm) -> int:
        """Return the number of sums of a row."""
        return int(self.region.inputs[norm.sums[0]].tensor.shape[-1])  # type: ignore[arg-type]

    def array(self, index: int | None) -> Array | None:
        """Return a constant operand in f32, None for an absent one."""
        if index is None:
            return None
        weight = constant(self.region.inputs[index])
        assert weight is not None
        return widened(weight.array)

    @cached_property
    def plain_weights(self) -> Array:
        """The constant operand of the product in f32."""
        w = self.array(self.w)
        assert w is not None
        return w

    @cached_property
    def weights(self) -> Array:
        """[columns, depth], the norm's scale multiplied in, rounded to the type of the rows."""
        w = self.plain_weights if self.op.transpose_b else self.plain_weights.T
        scale = None if self.rows is None else self.array(self.rows.scale)
        if scale is not None:
            w = w * scale
        return cast(w, self.dtype.numpy)

    @property
    def factors(self) -> Array:
        """What the weights of each column sum up to."""
        sums: Array = widened(self.weights).sum(1)
        return sums

    @property
    def added(self) -> Array:
        """What is added to each column: the bias, and the product of the norm's shift."""
        w, bias = self.plain_weights, self.array(self.bias)
        shift = None if self.rows is None else self.array(self.rows.shift)
        total = widened(self.weights)[:, 0] * 0 if bias is None else bias.reshape(-1)
        if shift is not None:
            total = total + (w @ shift if self.op.transpose_b else shift @ w)
        return total


def _norm_of(v: Value) -> Node | None:
    """Return the norm that makes a value, maybe in a wider type and narrowed again."""
    node = v.node
    while node is not None and not isinstance(node.op, LayerNorm):
        node = node.inputs[0].node
    return node


def _rows_of(norm: Node) -> Value:
    """Return what is normalized, as it is before it is widened."""
    x = norm.inputs[0]
    return x if x.node is None else x.node.inputs[0]


def _tiles(case: _Case, target: CudaTarget) -> Iterator[tuple[Tile, float]]:
    work, each = case.work(target), case.summed
    for tile, cost in (*promising(tiles(work, target)), *uneven_tiles(work, target)):
        parts = (tile.columns - tile.more_columns, tile.more_columns)
        whole = each == 0 or all(n % each == 0 for n in parts)
        if whole and case.depth % tile.depth == 0 and not tile.halves:
            yield tile, cost


def _draft(case: _Case, tile: Tile, target: CudaTarget) -> Callable[[Placement], CudaDraft]:
    def draft(at: Placement) -> CudaDraft:
        return _launch(case, tile, target)

    return draft


def _launch(case: _Case, tile: Tile, target: CudaTarget) -> CudaDraft:
    columns, depth, dtype = case.columns, case.depth, case.dtype
    tiles_m, tiles_n = ceildiv(case.count, tile.rows), ceildiv(columns, tile.columns)
    programs = product((tiles_m, tiles_n))
    split, count = pieces(tile, programs)
    stride = padded_depth(depth, dtype)
    call = Call("normed", "normed")
    call.pointer("x", Read(case.x), dtype)
    _sums(call, "x", case.rows)
    size = columns * stride * dtype.itemsize
    call.pointer(
        "w", Packed(dtype, size, lambda: Weight(pack_columns(case.weights, stride))), dtype
    )
    factors = None if case.rows is None else _vector(columns, lambda: case.factors)
    call.pointer("factors", factors, DType.F32)
    plain = case.bias is None and (case.rows is None or case.rows.shift is None)
    call.pointer("bias", None if plain else _vector(columns, lambda: case.added), DType.F32)
    call.pointer("residual", None if case.residual is None else Read(case.residual), dtype)
    _sums(call, "r", case.rest)
    for name, index in _affine(case.rest):
        type_ = dtype if index is None else case.region.inputs[index].tensor.dtype
        call.pointer(name, None if index is None else Read(index), type_)
    call.pointer("y", Write(0), dtype)
    for i, name in enumerate(("y_sums", "y_squares")):
        call.pointer(name, Write(1 + i) if case.summed else None, DType.F32)
    shared(call, tile.split, programs, False)
    call.sizes(M=case.count, N=columns, K=depth)
    call.sizes(X_ROW=depth, W_COLUMN=stride, RESIDUAL_ROW=columns, Y_ROW=columns)
    fused = Fused(activation=case.op.activation).constants()
    call.constants(
        **_groups(case, "", "X", case.rows),
        **_groups(case, "R_", "R", case.rest),
        SUMMED=case.summed,
        BLOCK_M=tile.rows,
        BLOCK_N=tile.columns - tile.more_columns,
        MORE_N=tile.more_columns,
        BLOCK_K=tile.depth,
        SPLIT=split,
        GROUP=rows_of_group(tiles_m),
        WHOLE_M=divides(tile.rows, case.count),
        WHOLE_N=divides(tile.columns, columns),
        PRECISION="ieee",
        PREFETCH=target.dependent and few_tiles(tiles_m),
        DEPENDENT=target.dependent,
        **{name: fused[name] for name in ("KIND", "ALPHA", "BETA")},
    )
    launch = call.launch(
        (programs, count), warps=tile.warps, stages=tile.stages, dependent=target.dependent
    )
    return CudaDraft(launches=(launch,), workspace_bytes=shared_bytes(tile, programs))


def _sums(call: Call, name: str, norm: _Norm | None) -> None:
    for i, what in enumerate(("sums", "squares")):
        call.pointer(f"{name}_{what}", None if norm is None else Read(norm.sums[i]), DType.F32)


def _affine(norm: _Norm | None) -> Sequence[tuple[str, int | None]]:
    scale, shift = (None, None) if norm is None else (norm.scale, norm.shift)
    return (("r_scale", scale), ("r_shift", shift))


def _groups(case: _Case, before: str, name: str, norm: _Norm | None) -> dict[str, float | None]:
    count = 1 if norm is None else case.groups(norm)
    return {
        f"{before}EPSILON": None if norm is None else norm.epsilon,
        f"{name}_GROUPS": count,
        f"{name}_WIDTH": 1 << (count - 1).bit_length(),
    }


def _vector(size: int, make: Callable[[], Array]) -> Role:
    return Packed(DType.F32, size * DType.F32.itemsize, lambda: Weight(make()))
