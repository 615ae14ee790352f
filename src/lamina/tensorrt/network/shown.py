"""Settings under which an operator of the IR is shown as a layer.

Programs look at the layers that the parser made: they assign a layer's ``__class__`` and read its
settings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lamina import ops
from lamina.ir.graph import Node, Op
from lamina.ops import kinds
from lamina.tensorrt import enums
from lamina.tensorrt.enum_type import TrtEnum
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.foundation.permutation import Permutation
from lamina.tensorrt.foundation.weights import Weights
from lamina.tensorrt.network import image, pointwise, reduction

Settings = dict[str, Any]


def settings_of(node: Node) -> Settings:
    """Return the settings of the layer that shows a node, as far as it has such settings."""
    show = _SHOWN.get(type(node.op))
    return {} if show is None else {k: v for k, v in show(node).items() if v is not None}


def _named(enum: type[TrtEnum], table: dict[str, Any], kind: Any) -> Any:
    """Return the member whose meaning is ``kind``, None where there is none."""
    return next((enum.named(name) for name, value in table.items() if value is kind), None)


def _static(dims: tuple[Any, ...]) -> Dims | None:
    return Dims(dims) if all(isinstance(d, int) for d in dims) and len(dims) <= 8 else None


def _constant(node: Node, index: int) -> Weights | None:
    op = node.inputs[index].op if index < len(node.inputs) else None
    if not isinstance(op, ops.Const) or not op.weight.array.flags.c_contiguous:
        return None
    try:
        return Weights(op.weight.array)
    except TypeError:
        return None


def _convolution(node: Node) -> Settings:
    op = node.op
    assert isinstance(op, ops.Convolution | ops.Deconvolution)
    shape = node.inputs[1].tensor.shape
    maps = node.output.tensor.shape[1]
    return {
        "num_output_maps": maps if isinstance(maps, int) else None,
        "kernel_size_nd": _static(shape[2:]),
        "stride_nd": Dims(op.strides),
        "dilation_nd": Dims(op.dilations),
        "pre_padding": Dims(op.pads_begin),
        "post_padding": Dims(op.pads_end),
        "num_groups": op.groups,
        "kernel": _constant(node, 1),
        "bias": _constant(node, 2),
    }


def _pool(node: Node) -> Settings:
    op = node.op
    assert isinstance(op, ops.Pool)
    average = op.kind is kinds.PoolKind.AVERAGE
    return {
        "type": enums.PoolingType.named("AVERAGE" if average else "MAX"),
        "window_size_nd": Dims(op.kernel),
        "stride_nd": Dims(op.strides),
        "pre_padding": Dims(op.pads_begin),
        "post_padding": Dims(op.pads_end),
        "average_count_excludes_padding": not op.count_include_pad,
    }


def _activation(node: Node) -> Settings:
    op = node.op
    assert isinstance(op, ops.Activation)
    kind = _named(enums.ActivationType, pointwise.ACTIVATIONS, op.kind)
    return {"type": kind, "alpha": float(op.alpha), "beta": float(op.beta)}


def _constant_layer(node: Node) -> Settings:
    op = node.op
    assert isinstance(op, ops.Const)
    array = op.weight.array
    if not array.flags.c_contiguous or array.ndim > 8:
        return {}
    try:
        return {"weights": Weights(array), "shape": Dims(array.shape)}
    except TypeError:
        return {}


def _matmul(node: Node) -> Settings:
    op = node.op
    assert isinstance(op, ops.Matmul)

    def named(transposed: bool) -> Any:
        return enums.MatrixOperation.named("TRANSPOSE" if transposed else "NONE")

    return {"op0": named(op.transpose_a), "op1": named(op.transpose_b)}


def _reduce(node: Node) -> Settings:
    op = node.op
    assert isinstance(op, ops.Reduce)
    return {
        "op": _named(enums.ReduceOperation, reduction.KINDS, op.kind),
        "axes": sum(1 << a for a in op.axes),
        "keep_dims": op.keepdims,
    }


def _top_k(node: Node) -> Settings:
    op = node.op
    assert isinstance(op, ops.TopK)
    return {
        "op": enums.TopKOperation.named("MAX" if op.largest else "MIN"),
        "k": op.k if isinstance(op.k, int) else None,
        "axes": 1 << op.axis,
    }


def _slice(node: Node) -> Settings:
    op = node.op
    assert isinstance(op, ops.Slice)
    return {"start": _static(op.starts), "shape": _static(op.sizes), "stride": Dims(op.steps)}


def _resize(node: Node) -> Settings:
    op = node.op
    assert isinstance(op, ops.Resize)
    return {
        "shape": _static(op.sizes),
        "resize_mode": _named(enums.InterpolationMode, image.INTERPOLATION, op.mode),
        "coordinate_transformation": _named(
            enums.ResizeCoordinateTransformation, image.COORDINATES, op.coordinate_mode
        ),
        "nearest_rounding": _named(enums.ResizeRoundMode, image.ROUNDING, op.nearest_mode),
        "cubic_coeff": op.cubic_coeff_a,
    }


def _attribute(name: str, setting: str, mask: bool = False) -> Callable[[Node], Settings]:
    def show(node: Node) -> Settings:
        value = getattr(node.op, name)
        return {setting: 1 << value if mask else value}

    return show


_SHOWN: dict[type[Op], Callable[[Node], Settings]] = {
    ops.Activation: _activation,
    ops.Binary: lambda n: {
        "op": _named(enums.ElementWiseOperation, pointwise.BINARY, getattr(n.op, "kind", None))
    },
    ops.Concat: _attribute("axis", "axis"),
    ops.Const: _constant_layer,
    ops.Convolution: _convolution,
    ops.Deconvolution: _convolution,
    ops.Einsum: _attribute("equation", "equation"),
    ops.Gather: _attribute("axis", "axis"),
    ops.Lrn: _attribute("size", "window_size"),
    ops.Matmul: _matmul,
    ops.Pool: _pool,
    ops.Reduce: _reduce,
    ops.Reshape: lambda n: {"reshape_dims": _static(getattr(n.op, "shape", ()))},
    ops.Resize: _resize,
    ops.Slice: _slice,
    ops.Softmax: _attribute("axis", "axes", mask=True),
    ops.TopK: _top_k,
    ops.Transpose: lambda n: {"first_transpose": Permutation(getattr(n.op, "perm", ()))},
    ops.Unary: lambda n: {
        "op": _named(enums.UnaryOperation, pointwise.UNARY, getattr(n.op, "kind", None))
    },
}
