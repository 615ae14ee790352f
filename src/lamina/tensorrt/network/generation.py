"""Constants, filled tensors, Einstein sums and assertions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lamina import ops
from lamina.ir.dims import Dim
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, RandomKind
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import DataType, FillOperation
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.foundation.dtype import to_ir, volume
from lamina.tensorrt.foundation.weights import Weights
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.linear import WeightsSetting
from lamina.tensorrt.network.setting import OptionalSetting, Setting, set_quietly
from lamina.tensorrt.network.tensor import ITensor


class IConstantLayer(ILayer):
    """A tensor known at build time."""

    _kind = "CONSTANT"
    weights = WeightsSetting(Weights, None, "The elements.")
    shape = Setting(Dims, Dims(), "The sizes.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        given: Weights = self.__dict__["weights"]
        shape = tuple(self.shape)
        if given.size != volume(shape):
            raise self._fail(f"{given.size} weights for a constant of shape {shape}")
        return (e.weights(given, "CONSTANT", (1, *shape) if e.implicit_batch else shape),)


class IFillLayer(ILayer):
    """Evenly spaced or random numbers.

    Input 0 gives the sizes as a tensor; inputs 1 and 2 give alpha and beta, which are start and
    step of LINSPACE (one step per axis), bounds of RANDOM_UNIFORM, and mean and standard deviation
    of RANDOM_NORMAL.
    """

    _kind = "FILL"
    _shape_operands = frozenset({0})
    shape = OptionalSetting(Dims, None, "Sizes of the result.")
    operation = Setting(FillOperation, "LINSPACE", "Which numbers.")
    to_type = Setting(DataType, "FLOAT", "Type of the result.")
    _to_type = to_type
    _alpha: float = 0.0
    _beta: float = 1.0
    _integers = False

    @property
    def alpha(self) -> float:
        """First parameter."""
        return self._alpha

    @alpha.setter
    def alpha(self, value: float) -> None:
        self._integers = isinstance(value, int | np.integer)
        self._alpha = value
        self._touch()

    @property
    def beta(self) -> float:
        """Second parameter."""
        return self._beta

    @beta.setter
    def beta(self, value: float) -> None:
        self._integers = isinstance(value, int | np.integer)
        self._beta = value
        self._touch()

    def is_alpha_beta_int64(self) -> bool:
        """Whether the parameters were given as integers."""
        return self._integers

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        sizes, alpha, beta = (*inputs, None, None, None)[:3]
        shape = e.dims(sizes) if sizes is not None else tuple(self.shape or ())
        if sizes is None and e.implicit_batch:
            shape = (1, *shape)
        dtype = to_ir(self._output_types.get(0) or self._to_type)
        if self.operation.name == "LINSPACE":
            return (self._spaced(e, shape, dtype, alpha, beta),)
        return (self._random(e, shape, dtype, alpha, beta),)

    def _spaced(
        self,
        e: LayerEmitter,
        shape: tuple[Dim, ...],
        dtype: DType,
        a: Value | None,
        b: Value | None,
    ) -> Value:
        start = e.constant(self._alpha, dtype) if a is None else e.cast(e.reshape(a, ()), dtype)
        steps = e.constant([self._beta] * len(shape), dtype) if b is None else e.cast(b, dtype)
        total = e.expand(start, shape)
        for axis, size in enumerate(shape):
            step = e.reshape(e.slice(e.reshape(steps, (len(shape),)), 0, axis, 1), ())
            row = e.emit(ops.Range(length=size), e.like(0, start), step)
            row = e.reshape(row, (size, *[1] * (len(shape) - axis - 1)))
            total = row if len(shape) == 1 else e.binary(BinaryKind.ADD, total, row)
        return total if len(shape) != 1 else e.binary(BinaryKind.ADD, total, start)

    def _random(
        self,
        e: LayerEmitter,
        shape: tuple[Dim, ...],
        dtype: DType,
        a: Value | None,
        b: Value | None,
    ) -> Value:
        uniform = self.operation.name == "RANDOM_UNIFORM"
        kind = RandomKind.UNIFORM if uniform else RandomKind.NORMAL
        if a is None and b is None:
            parameters = (float(self._alpha), float(self._beta))
            return e.cast(e.random(kind, shape, DType.F32, parameters), dtype)
        noise = e.random(kind, shape, DType.F32)
        first = e.constant(self._alpha, DType.F32) if a is None else e.cast(a, DType.F32)
        second = e.constant(self._beta, DType.F32) if b is None else e.cast(b, DType.F32)
        scale = e.binary(BinaryKind.SUB, second, first) if uniform else second
        return e.cast(e.binary(BinaryKind.ADD, e.multiply(noise, scale), first), dtype)


class IEinsumLayer(ILayer):
    """An Einstein sum of up to two tensors."""

    _kind = "EINSUM"
    equation = Setting(str, "", "Subscripts such as ``ij,jk->ik``.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        if e.implicit_batch:
            raise self._fail("an Einstein sum needs an explicit batch")
        xs = [v for v in inputs if v is not None]
        return (e.emit(ops.Einsum(equation=self.equation.replace(" ", "")), *xs),)


class IAssertionLayer(ILayer):
    """A condition that must hold.

    One that is known to be false fails the build; one that shapes or data decide fails the run.
    """

    _kind = "ASSERTION"
    _results = 0
    message = Setting(str, "", "What is said when the condition does not hold.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (condition,) = inputs
        assert condition is not None
        known = e.known(condition)
        if known is not None and not known.all():
            raise self._fail(f"the assertion does not hold: {self.message}")
        return ()


class GenerationAdditions(Additions):
    """``add_*`` of the layers of this module."""

    @checked
    def add_constant(self, shape: Dims, weights: Weights) -> IConstantLayer | None:
        """Add a constant; None when the number of weights does not fit the shape."""
        if weights.size != volume(shape):
            self._state.reporter.error(
                f"a constant of shape {shape} has {volume(shape)} elements, got {weights.size}"
            )
            return None
        layer = self._add(IConstantLayer(self._state, []))
        set_quietly(layer, shape=shape, weights=weights)
        return layer

    @checked
    def add_fill(
        self, shape: Dims, op: FillOperation, output_type: DataType | None = None
    ) -> IFillLayer:
        """Add a tensor of evenly spaced or random numbers."""
        layer = self._add(IFillLayer(self._state, [None]))
        set_quietly(layer, shape=shape, operation=op)
        if output_type is not None:
            set_quietly(layer, to_type=output_type)
        return layer

    @checked
    def add_einsum(self, inputs: list[ITensor], equation: str) -> IEinsumLayer:
        """Add an Einstein sum."""
        layer = self._add(IEinsumLayer(self._state, inputs))
        set_quietly(layer, equation=equation)
        return layer

    @checked
    def add_assertion(self, condition: ITensor, message: str) -> IAssertionLayer:
        """Add a condition that must hold."""
        layer = self._add(IAssertionLayer(self._state, [condition]))
        set_quietly(layer, message=message)
        return layer


__all__ = ["IAssertionLayer", "IConstantLayer", "IEinsumLayer", "IFillLayer"]
