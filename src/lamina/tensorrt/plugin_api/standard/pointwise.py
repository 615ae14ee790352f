"""Standard plugins that activate, normalize or move elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lamina.errors import GraphError
from lamina.ir.graph import Value
from lamina.tensorrt.plugin_api.standard.definition import (
    Attributes,
    Definition,
    composed,
    known,
    numbers,
    pair,
    sizes,
    written,
)
from lamina.tensorrt.plugin_api.standard.tensors import Tensor

_REDUCTIONS = ("none", "add", "mul", "max", "min")


def _leaky_relu(a: Attributes, inputs: Sequence[Value]) -> str:
    return f"f (x) => (y) {{ y = LeakyRelu <alpha = {float(a['negSlope'])}> (x) }}"


def _clip(a: Attributes, inputs: Sequence[Value]) -> str:
    low, high = float(a["clipMin"]), float(a["clipMax"])
    return f"""f (x) => (y) {{
        low = Constant <value_float = {low}> ()
        high = Constant <value_float = {high}> ()
        l = CastLike (low, x)
        h = CastLike (high, x)
        y = Clip (x, l, h)
    }}"""


def _instance_norm(a: Attributes, inputs: Sequence[Value]) -> str:
    norm = f"InstanceNormalization <epsilon = {float(a['epsilon'])}>"
    if len(inputs) == 3:
        return f"f (x, scale, bias) => (y) {{ y = {norm} (x, scale, bias) }}"
    scales, biases = (", ".join(map(repr, numbers(a[k]))) for k in ("scales", "bias"))
    return f"""f (x) => (y) {{
        scale = Constant <value_floats = [{scales}]> ()
        bias = Constant <value_floats = [{biases}]> ()
        y = {norm} (x, scale, bias)
    }}"""


def _group_norm(a: Attributes, inputs: Sequence[Value]) -> str:
    norm = f"GroupNormalization <epsilon = {float(a['eps'])}, num_groups = {int(a['num_groups'])}>"
    return f"f (x, scale, bias) => (y) {{ y = {norm} (x, scale, bias) }}"


def _normalize(a: Attributes, inputs: Sequence[Value]) -> str:
    """``x / sqrt(sum(x * x) + eps) * weights``, over all of an item or over its channels."""
    axes = "1, 2, 3" if a["acrossSpatial"] else "1"
    weights = ", ".join(map(repr, map(float, numbers(a["weights"]))))
    return f"""f (x) => (y) {{
        axes = Constant <value_ints = [{axes}]> ()
        squares = Mul (x, x)
        sum = ReduceSum <keepdims = 1> (squares, axes)
        eps = Constant <value_float = {float(a["eps"])}> ()
        shifted = Add (sum, eps)
        norm = Sqrt (shifted)
        unit = Div (x, norm)
        listed = Constant <value_floats = [{weights}]> ()
        shape = Constant <value_ints = [1, -1, 1, 1]> ()
        weights = Reshape (listed, shape)
        y = Mul (unit, weights)
    }}"""


def _region(a: Attributes, inputs: Sequence[Value]) -> str:
    """YOLO v2: logistic for x, y and objectness, softmax over the classes of each box."""
    n, coords, classes = int(a["num"]), int(a["coords"]), int(a["classes"])
    batch, _, height, width = sizes(inputs[0])
    entries = coords + classes + 1
    return f"""f (x) => (y) {{
        inner = Constant <value_ints = [{batch}, {n}, {entries}, {height}, {width}]> ()
        outer = Constant <value_ints = [{batch}, {n * entries}, {height}, {width}]> ()
        boxes = Reshape (x, inner)
        parts = Constant <value_ints = [2, {coords - 2}, 1, {classes}]> ()
        xy, wh, object, kinds = Split <axis = 2> (boxes, parts)
        places = Sigmoid (xy)
        objectness = Sigmoid (object)
        probabilities = Softmax <axis = 2> (kinds)
        joined = Concat <axis = 2> (places, wh, objectness, probabilities)
        y = Reshape (joined, outer)
    }}"""


def _flatten_concat(a: Attributes, inputs: Sequence[Value]) -> str:
    names = [f"x{i}" for i in range(len(inputs))]
    axis = 0 if a["ignoreBatch"] else 1
    lines = [f"f{i} = Flatten <axis = {axis}> (x{i})" for i in range(len(inputs))]
    flat = ", ".join(f"f{i}" for i in range(len(inputs)))
    return "\n".join(
        [f"f ({', '.join(names)}) => (y) {{", *lines, f"y = Concat <axis = 1> ({flat})", "}"]
    )


def _scatter_nd(a: Attributes, inputs: Sequence[Value]) -> str:
    return "f (data, indices, updates) => (y) { y = ScatterND (data, indices, updates) }"


def _split(a: Attributes, x: Tensor) -> list[Tensor]:
    axis, lengths = int(a["axis"]), [int(n) for n in numbers(a["output_lengths"])]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return [x.part(axis, start, n) for start, n in zip(starts, lengths, strict=True)]


def _reorg(a: Attributes, x: Tensor) -> Tensor:
    """YOLO v2: the operand as (c / s / s, h * s, w * s), each block of s * s then is s * s rows."""
    stride, batch = int(a["stride"]), x.shape[0]
    channels, height, width = known(x, 1, 2, 3)
    inner = channels // (stride * stride)
    if inner * stride * stride != channels or height % stride or width % stride:
        raise GraphError(
            f"{channels} channels of {height} x {width} cannot be reorganized by {stride}"
        )
    blocks = x.reshape(batch, inner, height, stride, width, stride)
    rows = blocks.transpose(0, 3, 5, 1, 2, 4)
    return rows.reshape(batch, channels * stride * stride, height // stride, width // stride)


def _scatter_elements(a: Attributes, data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    reduction = str(a["reduction"])
    if reduction not in _REDUCTIONS:
        raise GraphError(
            f"ScatterElements cannot reduce by {reduction!r}",
            hint=f"it can by {', '.join(_REDUCTIONS)}",
        )
    settings = {"axis": int(a["axis"]), "reduction": reduction}
    return data.onnx("ScatterElements", indices, updates, **settings)


def _resize_nearest(a: Attributes, x: Tensor) -> Tensor:
    scale = float(a["scale"])
    scales = Tensor(x.e, x.e.constant(np.array([1, 1, scale, scale], np.float32)))
    settings = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return x.onnx("Resize", None, scales, mode="nearest", **settings)


def _batch_tile(a: Attributes, like: Tensor, x: Tensor) -> Tensor:
    return x.expand(like.shape[0], *x.shape[1:])


def _deformed(a: Attributes, x: Tensor, offset: Tensor, mask: Tensor, *weights: Tensor) -> Tensor:
    """Convolution at moved places, each weighted by a mask."""
    weight, *bias = weights
    before = pair(a["padding"])
    return x.onnx(
        "DeformConv",
        weight,
        offset,
        bias[0] if bias else None,
        mask,
        strides=pair(a["stride"]),
        pads=[*before, *before],
        dilations=pair(a["dilation"]),
        group=int(a["group"]),
        offset_group=int(a["deformable_group"]),
        kernel_shape=known(weight, 2, 3),
    )


DEFINITIONS = (
    Definition("LReLU_TRT", {"negSlope": 0.1}, written(_leaky_relu)),
    Definition("Clip_TRT", {"clipMin": 0.0, "clipMax": 6.0}, written(_clip)),
    Definition(
        "InstanceNormalization_TRT",
        {"epsilon": 1e-5, "scales": [], "bias": [], "relu": 0, "alpha": 0.0},
        written(_instance_norm),
        versions=("1", "2", "3"),
    ),
    Definition("GroupNormalizationPlugin", {"eps": 1e-5, "num_groups": 1}, written(_group_norm)),
    Definition(
        "Normalize_TRT",
        {"weights": [1.0], "acrossSpatial": 0, "channelShared": 1, "nbWeights": 1, "eps": 1e-6},
        written(_normalize),
    ),
    Definition("Region_TRT", {"num": 5, "coords": 4, "classes": 80}, written(_region)),
    Definition("FlattenConcat_TRT", {"axis": 1, "ignoreBatch": 0}, written(_flatten_concat)),
    Definition("ScatterND", {}, written(_scatter_nd)),
    Definition(
        "ScatterElements",
        {"axis": 0, "reduction": "none"},
        composed(_scatter_elements),
        versions=("1", "2"),
        operands=(3,),
    ),
    Definition(
        "Split",
        {"axis": 0, "output_lengths": []},
        composed(_split),
        outputs=lambda a: len(numbers(a["output_lengths"])),
        operands=(1,),
    ),
    Definition("Reorg_TRT", {"stride": 1}, composed(_reorg), versions=("1", "2"), operands=(1,)),
    Definition("ResizeNearest_TRT", {"scale": 1.0}, composed(_resize_nearest), operands=(1,)),
    Definition("BatchTilePlugin_TRT", {}, composed(_batch_tile), operands=(2,)),
    Definition(
        "ModulatedDeformConv2d",
        {
            "stride": [1, 1],
            "padding": [0, 0],
            "dilation": [1, 1],
            "group": 1,
            "deformable_group": 1,
        },
        composed(_deformed),
        versions=("1", "2"),
        operands=(4, 5),
    ),
)
