"""What an importer function sees of one ONNX node, and how it builds the graph."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx

from lamina import ops
from lamina.errors import ImportFailed, Unsupported
from lamina.importers.onnx.contents import symbolic
from lamina.importers.onnx.scope import Scope
from lamina.ir.dims import Dim, Expr
from lamina.ir.graph import Array, Op, Value
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ops.broadcast import broadcast_shapes
from lamina.ops.kinds import BinaryKind, RandomKind, ReduceKind
from lamina.ops.symbolic import Ratio

_KIND = onnx.AttributeProto

MOST_BOUND = 64
"""Most dimensions that one value may bind; shapes are short."""


class OnnxNode:
    """One ONNX node with typed access to its attributes, and the graph under construction."""

    def __init__(
        self,
        proto: onnx.NodeProto,
        attributes: Mapping[str, onnx.AttributeProto],
        opset: int,
        loc: Loc,
        scope: Scope,
        inputs: list[Any],
    ) -> None:
        self.proto = proto
        self.attributes = attributes
        self.opset = opset
        self.loc = loc
        self.scope = scope
        self.inputs = inputs
        self._counts: list[str] = []

    # Attributes

    def has(self, name: str) -> bool:
        """Whether the attribute is given."""
        return name in self.attributes

    def integer(self, name: str, default: int | None = None) -> int:
        """Return an int attribute; without a default it must be given."""
        return int(self._get(name, _KIND.INT, "i", default))

    def flag(self, name: str, default: bool = False) -> bool:
        """Return an int attribute that means yes or no."""
        return bool(self._get(name, _KIND.INT, "i", default))

    def number(self, name: str, default: float | None = None) -> float:
        """Return a float attribute; without a default it must be given."""
        return float(self._get(name, _KIND.FLOAT, "f", default))

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string attribute; without a default it must be given."""
        value = self._get(name, _KIND.STRING, "s", default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Return an attribute that lists ints; without a default it must be given."""
        return tuple(int(v) for v in self._get(name, _KIND.INTS, "ints", default))

    def numbers(self, name: str, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """Return an attribute that lists floats; without a default it must be given."""
        return tuple(float(v) for v in self._get(name, _KIND.FLOATS, "floats", default))

    def texts(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Return an attribute that lists strings; without a default it must be given."""
        values = self._get(name, _KIND.STRINGS, "strings", default)
        return tuple(v.decode() if isinstance(v, bytes) else v for v in values)

    def tensor(self, name: str) -> Array:
        """Return a tensor attribute."""
        return self.scope.session.reader.read(self._get(name, _KIND.TENSOR, "t", None), name)

    def sparse_tensor(self, name: str) -> Array:
        """Return a sparse tensor attribute as a dense array."""
        proto = self._get(name, _KIND.SPARSE_TENSOR, "sparse_tensor", None)
        return self.scope.session.reader.read_sparse(proto)

    def graph(self, name: str) -> onnx.GraphProto:
        """Return a graph attribute."""
        proto = self._get(name, _KIND.GRAPH, "g", None)
        assert isinstance(proto, onnx.GraphProto)
        return proto

    def choice(self, name: str, default: str, *allowed: str) -> str:
        """Return a string attribute that must be ``default`` or one of ``allowed``."""
        value = self.text(name, default)
        if value not in (default, *allowed):
            options = ", ".join((default, *allowed))
            raise ImportFailed(f"attribute {name} is {value!r}, expected one of {options}")
        return value

    def _get(self, name: str, kind: int, field: str, default: Any) -> Any:
        attribute = self.attributes.get(name)
        if attribute is None:
            if default is None:
                raise ImportFailed(f"attribute {name} is missing")
            return default
        if attribute.type not in (kind, _KIND.UNDEFINED):
            wanted = _KIND.AttributeType.Name(kind)
            raise ImportFailed(
                f"attribute {name} must be of type {wanted}, got "
                f"{_KIND.AttributeType.Name(attribute.type)}"
            )
        return getattr(attribute, field)

    # Building

    def emit(self, op: Op, *inputs: Value) -> Value:
        """Apply an operator with one result; the result points back at the ONNX node."""
        (result,) = self.emit_all(op, *inputs)
        return result

    def emit_all(self, op: Op, *inputs: Value) -> tuple[Value, ...]:
        """Apply an operator and return all its results, constants where they are known."""
        return self.scope.emit(op, inputs, self.loc, frozenset(self._counts))

    def constant(self, value: Any, dtype: DType | None = None, name: str = "") -> Value:
        """Return a constant; ``dtype`` converts numbers given as Python values."""
        array = np.asarray(value)
        if dtype is not None:
            with np.errstate(all="ignore"):
                array = array.astype(dtype.numpy)
        return self.scope.constant(array, self.loc, name)

    def like(self, value: float, x: Value) -> Value:
        """Return a scalar constant of the element type of ``x``."""
        return self.constant(value, x.tensor.dtype)

    def binary(self, kind: BinaryKind, a: Value, b: Value) -> Value:
        """Apply an elementwise operator of two operands."""
        return self.emit(ops.Binary(kind=kind), a, b)

    def multiply(self, a: Value, b: Value) -> Value:
        """Return the product of each pair of elements."""
        return self.binary(BinaryKind.MUL, a, b)

    def cast(self, x: Value, dtype: DType) -> Value:
        """Return ``x`` in another element type."""
        return x if x.tensor.dtype is dtype else self.emit(ops.Cast(dtype=dtype), x)

    def reshape(self, x: Value, shape: tuple[Dim, ...]) -> Value:
        """Return ``x`` in another shape with as many elements."""
        return x if x.tensor.shape == shape else self.emit(ops.Reshape(shape=shape), x)

    def expand(self, x: Value, shape: tuple[Dim, ...]) -> Value:
        """Return ``x`` broadcast together with a shape."""
        shape = broadcast_shapes(x.tensor.shape, shape)
        return x if x.tensor.shape == shape else self.emit(ops.Expand(shape=shape), x)

    def fill(self, value: Any, dtype: DType, shape: tuple[Dim, ...]) -> Value:
        """Return a tensor with the same value everywhere."""
        return self.expand(self.constant(value, dtype), shape)

    def transpose(self, x: Value, perm: tuple[int, ...]) -> Value:
        """Return ``x`` with its axes in another order."""
        return x if perm == tuple(range(len(perm))) else self.emit(ops.Transpose(perm=perm), x)

    def reduce(self, kind: ReduceKind, x: Value, axes: tuple[int, ...], *, keepdims: bool) -> Value:
        """Join the elements along ``axes``."""
        return self.emit(ops.Reduce(kind=kind, axes=tuple(sorted(axes)), keepdims=keepdims), x)

    def random(
        self,
        kind: RandomKind,
        shape: tuple[Dim, ...],
        dtype: DType,
        parameters: tuple[float, float] = (0.0, 1.0),
        seed: int | None = None,
    ) -> Value:
        """Emit random numbers: those of a seed, or without one others in each run.

        ``parameters`` are the bounds, or mean and standard deviation.
        """
        op = ops.Random(
            kind=kind,
            shape=shape,
            dtype=dtype,
            low_or_mean=parameters[0],
            high_or_scale=parameters[1],
            seed=seed,
        )
        if seed is not None:
            return self.emit(op)
        salt = int.from_bytes(hashlib.blake2b(str(self.loc).encode(), digest_size=8).digest())
        return self.emit(op, self.emit(ops.RandomKey(salt=salt)))

    def count(self, hint: str) -> Expr:
        """Return a fresh symbol for a size that the next emitted operator decides."""
        symbol = self.scope.session.symbols.fresh(hint)
        self._counts.append(str(symbol))
        return symbol

    def defines(self, symbols: Iterable[str]) -> None:
        """Let the next emitted operator define those symbols that no graph around it knows."""
        self._counts += [s for s in symbols if not self.scope.knows(s)]

    def wants(self, index: int) -> bool:
        """Whether output ``index`` has a name, so that something may read it."""
        return index < len(self.proto.output) and bool(self.proto.output[index])

    # Contents

    def known(self, v: Value) -> Array | None:
        """Return the numbers in ``v``, or None when they depend on the inputs."""
        return self.scope.session.contents.force(v)

    def required(self, v: Value, what: str) -> Array:
        """Return the numbers in ``v``; Unsupported when they depend on the inputs."""
        array = self.known(v)
        if array is None:
            raise self.unsupported(f"{what} is not a constant")
        return array

    def is_known(self, v: Value) -> bool:
        """Whether the elements of ``v`` are numbers or expressions before the run."""
        contents = self.scope.session.contents
        return contents.get(v) is not None or contents.force(v) is not None

    def dims(self, v: Value) -> tuple[Dim, ...]:
        """Return the elements of an integer vector or scalar as dimensions.

        Elements that come from data get symbols, which a BindDims operator defines.
        """
        elements = self.scope.session.contents.get(v)
        if elements is None:
            elements = self.scope.session.contents.force(v)
        if elements is None or any(isinstance(d, Ratio) for d in elements.flat):
            elements = self._bind(v)
        return tuple(d if isinstance(d, Expr) else int(d) for d in elements.reshape(-1))

    def dim(self, v: Value) -> Dim:
        """Return the only element of an integer tensor as a dimension."""
        found = self.dims(v)
        if len(found) != 1:
            raise ImportFailed(f"%{v.name} must have one element, got {len(found)}")
        return found[0]

    def shape_of(self, x: Value, start: int = 0, end: int | None = None) -> Value:
        """Return sizes of ``x`` as an i64 vector."""
        sizes = x.tensor.shape[start:end]
        if all(isinstance(d, int) for d in sizes):
            return self.constant(np.array(sizes, np.int64))
        shape = self.emit(ops.Shape(start=start, end=end), x)
        self.scope.session.contents.set(shape, symbolic(sizes))
        return shape

    def _bind(self, v: Value) -> Array:
        if not isinstance(v.type, TensorType) or not v.type.is_static or v.type.rank > 1:
            raise self.unsupported(f"the number of elements of %{v.name} ({v.type}) is not known")
        count = v.type.static_shape[0] if v.type.rank else 1
        if count > MOST_BOUND:
            raise self.unsupported(f"{count} dimensions that come from data (%{v.name})")
        hint = v.name or self.proto.op_type.lower()
        symbols = [self.scope.session.symbols.fresh(f"{hint}_{i}") for i in range(count)]
        bound = self.emit(ops.BindDims(names=tuple(map(str, symbols))), v)
        for s in symbols:
            self.scope.graph.definers[str(s)] = bound
        elements = symbolic(symbols, v.type.static_shape)
        self.scope.session.contents.set(v, elements)
        self.scope.session.contents.set(bound, elements)
        return elements

    def unsupported(self, reason: str) -> Unsupported:
        """Return the exception to raise for something that this importer cannot express."""
        return Unsupported(reason)

    # Axes

    def axis(self, x: Value, name: str = "axis", default: int | None = None) -> int:
        """Return an axis attribute counted from the front."""
        return self.wrap(self.integer(name, default), x.tensor.rank, name)

    def wrap(self, axis: int, rank: int, name: str = "axis") -> int:
        """Count an axis from the front; raises ImportFailed when there is no such axis."""
        if not -rank <= axis < rank:
            raise ImportFailed(f"{name} {axis} is not one of the {rank} axes")
        return axis % rank

    def rank4(self, x: Value) -> tuple[Dim, Dim, Dim, Dim]:
        """Return the sizes of an image batch [N, C, H, W]."""
        if x.tensor.rank != 4:
            raise ImportFailed(f"a batch of images has 4 dimensions, got {x.tensor}")
        batch, channels, height, width = x.tensor.shape
        return batch, channels, height, width

    def axes(
        self, rank: int, given: Value | None = None, name: str = "axes"
    ) -> tuple[int, ...] | None:
        """Return axes from an attribute or an operand, counted from the front; None for none."""
        if given is not None:
            listed = tuple(int(a) for a in self.required(given, name).reshape(-1))
        elif self.has(name):
            listed = self.integers(name)
        else:
            return None
        wrapped = tuple(self.wrap(a, rank, name) for a in listed)
        if len(set(wrapped)) < len(wrapped):
            raise ImportFailed(f"{name} {list(listed)} names an axis twice")
        return wrapped
