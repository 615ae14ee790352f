"""Tensors as decorated plugins see them: descriptions with expressions, and memory at run time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from lamina.ir.dims import Dim, Expr, ceildiv, dim_max, dim_min, floordiv, product
from lamina.ir.types import TensorType
from lamina.tensorrt.enums import DataType, TensorFormat
from lamina.tensorrt.foundation.dtype import from_ir, to_ir
from lamina.tensorrt.plugin_api.expressions import Fresh

FRESH: ContextVar[Fresh | None] = ContextVar("FRESH", default=None)
"""Makes symbols for sizes that only the run tells, while an engine is built."""


class ShapeExpr:
    """A size: a number or an expression."""

    def __init__(self, value: Any = 0) -> None:
        """Take a number or another size."""
        self._dim: Dim = value._dim if isinstance(value, ShapeExpr) else value

    @property
    def is_constant(self) -> bool:
        """Whether the size is a number."""
        return not isinstance(self._dim, Expr)

    def constant_value(self) -> int:
        """Return the number; raises ValueError for an expression."""
        if isinstance(self._dim, Expr):
            raise ValueError(f"{self._dim} is not a constant")  # noqa: TRY004 - its value is wrong
        return self._dim

    def __add__(self, other: Any) -> ShapeExpr:
        return ShapeExpr(self._dim + _dim(other))

    def __sub__(self, other: Any) -> ShapeExpr:
        return ShapeExpr(self._dim - _dim(other))

    def __rsub__(self, other: Any) -> ShapeExpr:
        return ShapeExpr(_dim(other) - self._dim)

    def __mul__(self, other: Any) -> ShapeExpr:
        return ShapeExpr(self._dim * _dim(other))

    def __floordiv__(self, other: Any) -> ShapeExpr:
        return ShapeExpr(floordiv(self._dim, _dim(other)))

    def __rfloordiv__(self, other: Any) -> ShapeExpr:
        return ShapeExpr(floordiv(_dim(other), self._dim))

    __radd__, __rmul__ = __add__, __mul__

    def __repr__(self) -> str:
        return f"ShapeExpr({self._dim})"


SymInt32 = ShapeExpr


class ShapeExprs:
    """Sizes of a tensor."""

    def __init__(self, sizes: Iterable[Any] | int = ()) -> None:
        """Take sizes, or how many there will be."""
        found = [0] * sizes if isinstance(sizes, int) else sizes
        self._sizes = [ShapeExpr(s) for s in found]

    def numel(self) -> ShapeExpr:
        """Return the number of elements."""
        return ShapeExpr(product(s._dim for s in self._sizes))

    def clone(self) -> ShapeExprs:
        """Return a copy."""
        return ShapeExprs(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        found = self._sizes[index]
        return ShapeExprs(found) if isinstance(index, slice) else found

    def __setitem__(self, index: int, value: Any) -> None:
        self._sizes[index] = ShapeExpr(value)

    def __iter__(self) -> Iterator[ShapeExpr]:
        return iter(self._sizes)


class Shape:
    """Sizes as numbers, which may be changed; compares with any sequence."""

    def __init__(self, sizes: Iterable[int] = ()) -> None:
        """Take the sizes."""
        self._sizes = [int(s) for s in sizes]

    def numel(self) -> int:
        """Return the number of elements."""
        return math.prod(self._sizes)

    def clone(self) -> Shape:
        """Return a copy."""
        return Shape(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        found = self._sizes[index]
        return tuple(found) if isinstance(index, slice) else found

    def __setitem__(self, index: int, value: int) -> None:
        self._sizes[index] = int(value)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Iterable) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Shape{tuple(self)}"


class TensorDesc:
    """Element type and shape of an operand or result."""

    def __init__(
        self,
        dtype: DataType | None = None,
        shape_expr: Any = (),
        format: TensorFormat | None = None,
        scale: float = 1.0,
    ) -> None:
        """Take element type, sizes and format."""
        self.dtype = dtype or DataType.named("FLOAT")
        self.shape_expr = (
            shape_expr if isinstance(shape_expr, ShapeExprs) else ShapeExprs(shape_expr)
        )
        self.format = format or TensorFormat.named("LINEAR")
        self.scale = scale
        self._aliased: TensorDesc | None = None

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape_expr)

    @property
    def shape(self) -> Shape:
        """Sizes, -1 for those that are not known."""
        return Shape(-1 if isinstance(s._dim, Expr) else s._dim for s in self.shape_expr)

    @property
    def is_size_tensor(self) -> bool:
        """Whether this scalar tells a size of another result."""
        return isinstance(self, SizeTensorDesc)

    @property
    def is_shape_tensor(self) -> bool:
        """Whether the elements are sizes."""
        return False

    @property
    def has_shape(self) -> bool:
        """Whether all sizes are known."""
        return -1 not in self.shape

    def like(self) -> TensorDesc:
        """Return a description with the same type and shape."""
        return TensorDesc(self.dtype, self.shape_expr.clone(), self.format, self.scale)

    def aliased(self) -> TensorDesc:
        """Return the description of a result that overwrites this operand."""
        found = self.like()
        found._aliased = self
        return found

    def get_aliased(self) -> TensorDesc | None:
        """Return the operand that this result overwrites, None for none."""
        return self._aliased

    def numel(self) -> ShapeExpr:
        """Return the number of elements."""
        return self.shape_expr.numel()

    @classmethod
    def _of(cls, type: TensorType) -> TensorDesc:
        return cls(from_ir(type.dtype), ShapeExprs(map(ShapeExpr, type.shape)))

    def _type(self) -> TensorType:
        return TensorType(to_ir(self.dtype), tuple(s._dim for s in self.shape_expr))


class SizeTensorDesc(TensorDesc):
    """A scalar result that tells a size of another result."""

    def __init__(self, opt: Any, upper_bound: Any) -> None:
        """Take the likeliest and the largest size."""
        super().__init__(DataType.named("INT32"))
        self.opt, self.upper_bound = ShapeExpr(opt), ShapeExpr(upper_bound)
        fresh = FRESH.get()
        self._size: Dim = fresh("size") if fresh is not None else self.upper_bound._dim

    def expr(self) -> ShapeExpr:
        """Return the size; while an engine runs, the upper bound."""
        return ShapeExpr(self._size)


class Tensor:
    """Memory of an operand or result at run time.

    NumPy reads and writes it in place on the CPU (``numpy.asarray(tensor)``); libraries for GPUs
    do on the GPU, through the CUDA array interface.
    """

    def __init__(
        self,
        type: TensorType,
        address: int,
        *,
        on_gpu: bool,
        stream: int = 0,
        aliased: bool = False,
    ) -> None:
        self._type = type
        self._on_gpu, self._stream = on_gpu, stream
        self.data_ptr = address
        self.is_aliased = aliased
        self.format = TensorFormat.named("LINEAR")
        self.scale = 1.0

    def __getattr__(self, name: str) -> Any:
        if name != ("__cuda_array_interface__" if self._on_gpu else "__array_interface__"):
            raise AttributeError(f"a plugin's tensor has no {name}")
        interface = {
            "shape": self._type.static_shape,
            "typestr": self._type.dtype.numpy.str,
            "data": (self.data_ptr, False),
            "strides": None,
            "version": 3,
        }
        return interface | ({"stream": self._stream or None} if self._on_gpu else {})

    @property
    def dtype(self) -> DataType:
        """Element type."""
        return from_ir(self._type.dtype)

    @property
    def shape(self) -> Shape:
        """Sizes."""
        return Shape(self._type.static_shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements between neighbours along each axis."""
        shape = self._type.static_shape
        return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self._type.rank

    def numel(self) -> int:
        """Return the number of elements."""
        return math.prod(self._type.static_shape)

    def aliased(self, shape: Any = None) -> Tensor:
        """Return a tensor of another shape, at most as large, in the same memory."""
        sizes = self._type.static_shape if shape is None else tuple(int(s) for s in shape)
        if math.prod(sizes) > self.numel():
            raise ValueError(f"{sizes} has more elements than {tuple(self.shape)}")
        return Tensor(
            self._type.with_shape(sizes),
            self.data_ptr,
            on_gpu=self._on_gpu,
            stream=self._stream,
            aliased=True,
        )


def _dim(value: Any) -> Dim:
    found: Dim = value._dim if isinstance(value, ShapeExpr) else int(value)
    return found


def cdiv(first: Any, second: Any) -> Any:
    """Return the quotient rounded up."""
    if isinstance(first, ShapeExpr) or isinstance(second, ShapeExpr):
        return ShapeExpr(ceildiv(_dim(first), _dim(second)))
    return -(-first // second)


def maximum(first: Any, second: Any) -> ShapeExpr:
    """Return the larger size."""
    return ShapeExpr(dim_max(_dim(first), _dim(second)))


def minimum(first: Any, second: Any) -> ShapeExpr:
    """Return the smaller size."""
    return ShapeExpr(dim_min(_dim(first), _dim(second)))


def size_tensor(opt: Any, upper_bound: Any) -> SizeTensorDesc:
    """Return the description of a scalar result that tells a size."""
    return SizeTensorDesc(opt, upper_bound)


def from_shape_expr(shape_expr: Any, dtype: DataType | None = None) -> TensorDesc:
    """Return the description of a tensor with these sizes, in f32 unless told otherwise."""
    return TensorDesc(dtype, ShapeExprs(list(shape_expr)))
