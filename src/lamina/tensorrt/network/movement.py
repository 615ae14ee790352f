"""Layers that move elements: shuffles, slices, concatenations, padding."""

from __future__ import annotations

from collections.abc import Sequence

from lamina import ops
from lamina.errors import GraphError
from lamina.importers.onnx.target_shape import target_shape
from lamina.ir.dims import is_static
from lamina.ir.graph import Value
from lamina.ops.kinds import PadMode
from lamina.tensorrt.check import checked
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.foundation.permutation import Permutation
from lamina.tensorrt.lowering.axes import at, default_axis, with_batch
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.linear import Synonym
from lamina.tensorrt.network.setting import OptionalSetting, Setting, set_quietly
from lamina.tensorrt.network.tensor import ITensor


class IConcatenationLayer(ILayer):
    """Tensors one after the other along an axis."""

    _kind = "CONCATENATION"
    axis = OptionalSetting(int, None, "Axis; the third from the end when not given.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        xs = [v for v in inputs if v is not None]
        if not xs:
            raise self._fail("a concatenation of nothing")
        axis = default_axis(e, xs[0]) if self.axis is None else at(e, self.axis, xs[0])
        return (xs[0] if len(xs) == 1 else e.emit(ops.Concat(axis=axis), *xs),)


class IShuffleLayer(ILayer):
    """A transpose, then a reshape, then a transpose; each may be left out.

    A size of 0 in ``reshape_dims`` keeps the operand's (unless ``zero_is_placeholder`` is False),
    -1 is what is left.  Input 1 gives the sizes as a tensor.
    """

    _kind = "SHUFFLE"
    _shape_operands = frozenset({1})
    first_transpose = Setting(Permutation, Permutation(), "Order of axes before the reshape.")
    second_transpose = Setting(Permutation, Permutation(), "Order of axes after the reshape.")
    reshape_dims = OptionalSetting(Dims, None, "Sizes, None to keep the shape.")
    zero_is_placeholder = Setting(bool, True, "Whether a size of 0 means the operand's.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, shape = (*inputs, None)[:2]
        assert x is not None
        x = _transposed(e, x, self.first_transpose)
        if shape is not None:
            x = e.reshape(x, target_shape(e, x, shape, zero_keeps=self.zero_is_placeholder))
        elif self.reshape_dims is not None:
            wanted = e.shape_value(with_batch(e, tuple(self.reshape_dims), 0))
            keeps = self.zero_is_placeholder or e.implicit_batch
            x = e.reshape(x, target_shape(e, x, wanted, zero_keeps=keeps))
        return (_transposed(e, x, self.second_transpose),)


def _transposed(e: LayerEmitter, x: Value, order: Permutation) -> Value:
    offset = 1 if e.implicit_batch else 0
    axes = tuple(a + offset for a in list(order)[: x.tensor.rank - offset])
    perm = (0, *axes) if offset else axes
    if sorted(perm) != list(range(x.tensor.rank)):
        raise GraphError(f"{order} is not an order of the axes of {x.tensor}")
    return e.transpose(x, perm)


class IPaddingLayer(ILayer):
    """Zeros around the last two axes; negative amounts crop."""

    _kind = "PADDING"
    pre_padding_nd = OptionalSetting(Dims, None, "Padding before height and width.")
    post_padding_nd = OptionalSetting(Dims, None, "Padding after height and width.")
    pre_padding = Synonym("pre_padding_nd", "Padding before height and width.")
    post_padding = Synonym("post_padding_nd", "Padding after height and width.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        begin, end = tuple(self.pre_padding_nd), tuple(self.post_padding_nd)
        kept = (0,) * (x.tensor.rank - len(begin))
        op = ops.Pad(mode=PadMode.CONSTANT, pads_begin=(*kept, *begin), pads_end=(*kept, *end))
        return (e.emit(op, x),)


class IShapeLayer(ILayer):
    """The sizes of the operand."""

    _kind = "SHAPE"

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        (x,) = inputs
        assert x is not None
        sizes = e.shape_of(x, 1 if e.implicit_batch else 0)
        return (e.cast(sizes, e.state.shape_dtype),)


class ISqueezeLayer(ILayer):
    """The operand without some axes of size one; the axes are a constant tensor."""

    _kind = "SQUEEZE"

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, axes = inputs
        assert x is not None and axes is not None
        gone = {at(e, int(a), x) for a in e.required(axes, "axes").reshape(-1)}
        for axis in gone:
            size = x.tensor.shape[axis]
            if is_static(size) and size != 1:
                raise self._fail(f"axis {axis} of {x.tensor} has size {size}, not 1")
        shape = tuple(d for a, d in enumerate(x.tensor.shape) if a not in gone)
        return (e.reshape(x, shape),)


class IUnsqueezeLayer(ILayer):
    """The operand with axes of size one; their places in the result are a constant tensor."""

    _kind = "UNSQUEEZE"

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, axes = inputs
        assert x is not None and axes is not None
        listed = [int(a) for a in e.required(axes, "axes").reshape(-1)]
        rank = x.tensor.rank + len(listed)
        places = {a % rank for a in listed}
        if len(places) != len(listed) or any(not -rank <= a < rank for a in listed):
            raise self._fail(f"axes {listed} are not places in a result of {rank} dimensions")
        return (e.unsqueeze(x, sorted(places)),)


class MovementAdditions(Additions):
    """``add_*`` of the layers of this module."""

    @checked
    def add_concatenation(self, inputs: list[ITensor]) -> IConcatenationLayer:
        """Add a concatenation."""
        return self._add(IConcatenationLayer(self._state, inputs))

    @checked
    def add_shuffle(self, input: ITensor) -> IShuffleLayer:
        """Add a transpose, reshape and transpose."""
        return self._add(IShuffleLayer(self._state, [input]))

    @checked
    def add_padding_nd(
        self, input: ITensor, pre_padding: Dims, post_padding: Dims
    ) -> IPaddingLayer | None:
        """Add zeros around the last two axes; None for padding of another number of axes."""
        if len(pre_padding) != 2 or len(post_padding) != 2:
            self._state.reporter.error(
                f"padding has two entries, got {pre_padding} and {post_padding}"
            )
            return None
        layer = self._add(IPaddingLayer(self._state, [input]))
        set_quietly(layer, pre_padding_nd=pre_padding, post_padding_nd=post_padding)
        return layer

    @checked
    def add_padding(
        self, input: ITensor, pre_padding: Dims, post_padding: Dims
    ) -> IPaddingLayer | None:
        """Add zeros around the last two axes."""
        layer = self._add(IPaddingLayer(self._state, [input]))
        set_quietly(layer, pre_padding_nd=pre_padding, post_padding_nd=post_padding)
        return layer

    @checked
    def add_shape(self, input: ITensor) -> IShapeLayer:
        """Add the sizes of a tensor as a tensor."""
        return self._add(IShapeLayer(self._state, [input]))

    @checked
    def add_squeeze(self, input: ITensor, axes: ITensor) -> ISqueezeLayer:
        """Remove axes of size one."""
        return self._add(ISqueezeLayer(self._state, [input, axes]))

    @checked
    def add_unsqueeze(self, input: ITensor, axes: ITensor) -> IUnsqueezeLayer:
        """Add axes of size one."""
        return self._add(IUnsqueezeLayer(self._state, [input, axes]))


__all__ = [
    "IConcatenationLayer",
    "IPaddingLayer",
    "IShapeLayer",
    "IShuffleLayer",
    "ISqueezeLayer",
    "IUnsqueezeLayer",
]
