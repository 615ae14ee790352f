"""Standard plugins that activate, normalize or move elements."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.ir.graph import Value
from lamina.tensorrt.plugin_api.standard.definition import Attributes, Definition, numbers, sizes


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


def _gelu(a: Attributes, inputs: Sequence[Value]) -> str:
    """Approximate GELU by tanh, after a bias where one is given."""
    if len(inputs) == 1:
        return 'f (x) => (y) { y = Gelu <approximate = "tanh"> (x) }'
    return 'f (x, bias) => (y) { s = Add (x, bias) y = Gelu <approximate = "tanh"> (s) }'


def _roi_align(a: Attributes, inputs: Sequence[Value]) -> str:
    mode = "max" if a["mode"] == 0 else "avg"
    transform = "output_half_pixel" if a["coordinate_transformation_mode"] == 0 else "half_pixel"
    settings = ", ".join(
        [
            f'mode = "{mode}"',
            f'coordinate_transformation_mode = "{transform}"',
            f"output_height = {int(a['output_height'])}",
            f"output_width = {int(a['output_width'])}",
            f"sampling_ratio = {int(a['sampling_ratio'])}",
            f"spatial_scale = {float(a['spatial_scale'])}",
        ]
    )
    return f"""f (x, rois, batches) => (y) {{
        wide = Cast <to = 7> (batches)
        y = RoiAlign <{settings}> (x, rois, wide)
    }}"""


DEFINITIONS = (
    Definition("LReLU_TRT", {"negSlope": 0.1}, _leaky_relu),
    Definition("Clip_TRT", {"clipMin": 0.0, "clipMax": 6.0}, _clip),
    *(
        Definition(
            "InstanceNormalization_TRT",
            {"epsilon": 1e-5, "scales": [], "bias": [], "relu": 0, "alpha": 0.0},
            _instance_norm,
            version=version,
        )
        for version in ("1", "2", "3")
    ),
    Definition("GroupNormalizationPlugin", {"eps": 1e-5, "num_groups": 1}, _group_norm),
    Definition(
        "Normalize_TRT",
        {"weights": [1.0], "acrossSpatial": 0, "channelShared": 1, "nbWeights": 1, "eps": 1e-6},
        _normalize,
    ),
    Definition("Region_TRT", {"num": 5, "coords": 4, "classes": 80}, _region),
    Definition("FlattenConcat_TRT", {"axis": 1, "ignoreBatch": 0}, _flatten_concat),
    Definition("ScatterND", {}, _scatter_nd),
    Definition("CustomGeluPluginDynamic", {"type_id": 0, "bias": 0}, _gelu),
    *(
        Definition(
            "ROIAlign_TRT",
            {
                "coordinate_transformation_mode": 1,
                "mode": 1,
                "output_height": 1,
                "output_width": 1,
                "sampling_ratio": 0,
                "spatial_scale": 1.0,
            },
            _roi_align,
            version=version,
        )
        for version in ("1", "2")
    ),
)
