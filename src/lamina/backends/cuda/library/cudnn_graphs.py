"""Problems for cuDNN as graphs of its operations.

Shapes and strides are lists in the order batch, channels (or heads), then the other axes, counted
in elements.  A problem of ``kind`` ``convolution`` has

========================== ============================================================
``dtype``                  of images and filters: f16, bf16, f32
``compute``                ``f32``, or ``tf32`` where factors may be rounded to 11 bits
``X_shape``, ``X_strides`` of X in x w y, the strides also of z, where there is one
``bias_dtype``             of the bias, where there is one
``pads_before/after``      zeros around the spatial axes of x
``strides, dilations``     of the windows
``activation``             a name of :data:`ACTIVATIONS` or None, with ``alpha`` and ``beta``
========================== ============================================================

and computes y = activation(x * w + z + bias).  One of ``kind`` ``attention`` has ``dtype``,
``X_shape`` and ``X_strides`` of q k v y, ``scale``, and ``causal``: None, ``first`` (query i sees
the keys up to i) or ``last`` (the last query sees all keys).  In both, ``X_first_bytes`` is where
an operand begins in its tensor, if that is not at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from lamina.backends.cuda.primitive import Problem
from lamina.errors import PlanError

_TYPES: Final = {"f16": "HALF", "bf16": "BFLOAT16", "f32": "FLOAT"}

_Activation = Callable[[Any, Any, float, float], Any]

ACTIVATIONS: Final[dict[str, _Activation]] = {
    "relu": lambda g, x, a, b: g.relu(input=x),
    "leaky_relu": lambda g, x, a, b: g.relu(input=x, negative_slope=a),
    "clip": lambda g, x, a, b: g.relu(input=x, lower_clip=a, upper_clip=b),
    "sigmoid": lambda g, x, a, b: g.sigmoid(input=x),
    "tanh": lambda g, x, a, b: g.tanh(input=x),
    "gelu": lambda g, x, a, b: g.gelu(input=x),
    "gelu_tanh": lambda g, x, a, b: g.gelu_approx_tanh(input=x),
    "silu": lambda g, x, a, b: g.swish(input=x, swish_beta=a),
}
"""cuDNN's operation for each activation, given graph, tensor and the two parameters."""


def describe(cudnn: Any, handle: int, problem: Problem, names: Sequence[str]) -> Any:
    """Return the graph of a problem, checked but without plans; PlanError for a damaged one."""
    try:
        describers = {"convolution": _convolution, "attention": _attention}
        kind = describers[problem["kind"]]
        float_ = cudnn.data_type.FLOAT
        graph = cudnn.pygraph(
            io_data_type=_type(cudnn, problem["dtype"]),
            intermediate_data_type=float_,
            compute_data_type=float_,
            handle=handle,
        )
        kind(cudnn, graph, problem, {name: uid(names, name) for name in names})
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise PlanError(f"a problem for cuDNN lacks or misstates {e}") from e
    graph.validate()
    graph.build_operation_graph()
    return graph


def uid(names: Sequence[str], name: str) -> int:
    """Return the number of an operand in the graph."""
    return 1 + list(names).index(name)


def forbidden(cudnn: Any, problem: Problem) -> list[Any]:
    """Return the properties that an engine must not have.

    Results must not change from run to run nor be summed up in 16 bits, f32 is only rounded where
    that is allowed, and the large tiles of Winograd's algorithm lose too many digits.
    """
    notes = cudnn.numerical_note
    found = [
        notes.NONDETERMINISTIC,
        notes.REDUCED_PRECISION_REDUCTION,
        notes.WINOGRAD_TILE_6x6,
        notes.WINOGRAD_TILE_13x13,
    ]
    if problem["dtype"] == "f32" and problem.get("compute") != "tf32":
        found += [notes.TENSOR_CORE, notes.DOWN_CONVERT_INPUTS]
    return found


def _type(cudnn: Any, dtype: str) -> Any:
    return getattr(cudnn.data_type, _TYPES[dtype])


def _tensor(cudnn: Any, graph: Any, problem: Problem, uids: dict[str, int], name: str) -> Any:
    shape = problem["y_shape" if name == "z" else f"{name}_shape"]
    return graph.tensor(
        dim=list(shape),
        stride=list(problem[f"{name}_strides"]),
        data_type=_type(cudnn, problem["dtype"]),
        name=name,
        uid=uids[name],
    )


def _convolution(cudnn: Any, graph: Any, problem: Problem, uids: dict[str, int]) -> None:
    result = graph.conv_fprop(
        image=_tensor(cudnn, graph, problem, uids, "x"),
        weight=_tensor(cudnn, graph, problem, uids, "w"),
        pre_padding=list(problem["pads_before"]),
        post_padding=list(problem["pads_after"]),
        stride=list(problem["strides"]),
        dilation=list(problem["dilations"]),
        name="convolution",
    )
    if "z" in uids:
        z = _tensor(cudnn, graph, problem, uids, "z")
        result = graph.add(a=result, b=z, name="residual")
    if "bias" in uids:
        filters = int(problem["y_shape"][1])
        ones = [1] * (len(problem["y_shape"]) - 2)
        bias = graph.tensor(
            dim=[1, filters, *ones],
            stride=[filters, 1, *(filters for _ in ones)],
            data_type=_type(cudnn, problem["bias_dtype"]),
            name="bias",
            uid=uids["bias"],
        )
        result = graph.bias(input=result, bias=bias, name="add_bias")
    if problem["activation"] is not None:
        activation = ACTIVATIONS[problem["activation"]]
        result = activation(graph, result, float(problem["alpha"]), float(problem["beta"]))
    _finish(cudnn, problem, uids, result)


def _attention(cudnn: Any, graph: Any, problem: Problem, uids: dict[str, int]) -> None:
    q, k, v = (_tensor(cudnn, graph, problem, uids, name) for name in "qkv")
    masked: dict[str, Any] = {}
    if problem["causal"] is not None:
        ends = {
            "first": cudnn.diagonal_alignment.TOP_LEFT,
            "last": cudnn.diagonal_alignment.BOTTOM_RIGHT,
        }
        masked["diagonal_alignment"] = ends[problem["causal"]]
        masked["diagonal_band_right_bound"] = 0
    result, _ = graph.sdpa(
        q=q, k=k, v=v, generate_stats=False, attn_scale=float(problem["scale"]), name="sdpa",
        **masked,
    )  # fmt: skip
    _finish(cudnn, problem, uids, result)


def _finish(cudnn: Any, problem: Problem, uids: dict[str, int], result: Any) -> None:
    result.set_output(True).set_data_type(_type(cudnn, problem["dtype"]))
    result.set_uid(uids["y"]).set_name("y")
    result.set_dim(list(problem["y_shape"])).set_stride(list(problem["y_strides"]))
