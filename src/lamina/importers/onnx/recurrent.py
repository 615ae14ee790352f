"""RNN, GRU and LSTM."""

from __future__ import annotations

from collections.abc import Iterator

from lamina import ops
from lamina.errors import ImportFailed
from lamina.importers.onnx.linear import present
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Table
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import ActivationKind, Direction, Epilogue, RecurrentKind

table = Table()

_ACTIVATIONS = {
    "Relu": (ActivationKind.RELU, None, None),
    "Tanh": (ActivationKind.TANH, None, None),
    "Sigmoid": (ActivationKind.SIGMOID, None, None),
    "Softsign": (ActivationKind.SOFTSIGN, None, None),
    "Softplus": (ActivationKind.SOFTPLUS, None, None),
    "LeakyRelu": (ActivationKind.LEAKY_RELU, 0.01, None),
    "ThresholdedRelu": (ActivationKind.THRESHOLDED_RELU, 1.0, None),
    "ScaledTanh": (ActivationKind.SCALED_TANH, 1.0, 1.0),
    "HardSigmoid": (ActivationKind.HARD_SIGMOID, 0.2, 0.5),
    "Elu": (ActivationKind.ELU, 1.0, None),
}
"""Kind and the defaults of alpha and beta, None for a parameter that it does not have."""

_DEFAULTS = {
    RecurrentKind.RNN: ("Tanh",),
    RecurrentKind.GRU: ("Sigmoid", "Tanh"),
    RecurrentKind.LSTM: ("Sigmoid", "Tanh", "Tanh"),
}


@table.op("RNN", "GRU")
def rnn(
    n: OnnxNode,
    x: Value,
    w: Value,
    r: Value,
    b: Value | None = None,
    lengths: Value | None = None,
    h0: Value | None = None,
) -> tuple[Value, ...]:
    """Import RNN and GRU."""
    kind = RecurrentKind.GRU if n.proto.op_type == "GRU" else RecurrentKind.RNN
    return _recurrent(n, kind, x, w, r, (b, lengths, h0, None, None))[:2]


@table.op("LSTM")
def lstm(
    n: OnnxNode,
    x: Value,
    w: Value,
    r: Value,
    b: Value | None = None,
    lengths: Value | None = None,
    h0: Value | None = None,
    c0: Value | None = None,
    peephole: Value | None = None,
) -> tuple[Value, ...]:
    """Import LSTM."""
    return _recurrent(n, RecurrentKind.LSTM, x, w, r, (b, lengths, h0, c0, peephole))


Optionals = tuple[Value | None, Value | None, Value | None, Value | None, Value | None]


def _recurrent(
    n: OnnxNode, kind: RecurrentKind, x: Value, w: Value, r: Value, optionals: Optionals
) -> tuple[Value, ...]:
    b, lengths, h0, c0, peephole = optionals
    batch_first = n.flag("layout")
    if batch_first:
        x = n.transpose(x, (1, 0, 2))
    batch = x.tensor.shape[1]
    dtype, hidden = x.tensor.dtype, _hidden_size(n, r)
    op = ops.Recurrent(
        kind=kind,
        hidden_size=hidden,
        direction=Direction(n.choice("direction", "forward", "reverse", "bidirectional")),
        activations=_activations(n, kind),
        clip=n.number("clip") if n.has("clip") else None,
        linear_before_reset=n.flag("linear_before_reset"),
        input_forget=n.flag("input_forget"),
    )
    directions = op.direction.passes
    if b is None:
        b = n.fill(0, dtype, (directions, 2 * kind.gates * hidden))
    states = [_state(n, v, (directions, batch, hidden), x, batch_first) for v in (h0, c0)]
    if peephole is not None and lengths is None:
        steps = n.reshape(n.cast(n.shape_of(x, 0, 1), DType.I32), ())
        lengths = n.expand(steps, (batch,))
    results = n.emit_all(op, *present(x, w, r, b, *states, lengths, peephole))
    if not batch_first:
        return results
    y, *last = results
    return n.transpose(y, (2, 0, 1, 3)), *(n.transpose(v, (1, 0, 2)) for v in last)


def _state(
    n: OnnxNode, given: Value | None, shape: tuple[object, ...], x: Value, batch_first: bool
) -> Value:
    if given is None:
        return n.fill(0, x.tensor.dtype, shape)  # type: ignore[arg-type]
    return n.transpose(given, (1, 0, 2)) if batch_first else given


def _hidden_size(n: OnnxNode, r: Value) -> int:
    size = r.tensor.shape[-1] if r.tensor.rank == 3 else None
    if not isinstance(size, int):
        raise n.unsupported(f"the recurrent weight {r.tensor} has no fixed size")
    if n.integer("hidden_size", size) != size:
        raise ImportFailed(f"hidden_size is {n.integer('hidden_size')} but the weight has {size}")
    return size


def _activations(n: OnnxNode, kind: RecurrentKind) -> tuple[Epilogue, ...]:
    """Return one function per gate kind and direction, each with its parameters.

    The lists of parameters hold entries only for functions that have that parameter.
    """
    both = n.choice("direction", "forward", "reverse", "bidirectional") == "bidirectional"
    names = n.texts("activations", _DEFAULTS[kind] * (2 if both else 1))
    alphas = iter(n.numbers("activation_alpha", ()))
    betas = iter(n.numbers("activation_beta", ()))
    return tuple(_activation(n, name, alphas, betas) for name in names)


def _activation(
    n: OnnxNode, name: str, alphas: Iterator[float], betas: Iterator[float]
) -> Epilogue:
    known = {key.lower(): row for key, row in _ACTIVATIONS.items()}
    if name.lower() not in known:
        raise n.unsupported(f"the activation {name}")
    kind, alpha, beta = known[name.lower()]
    return Epilogue(
        kind,
        0.0 if alpha is None else next(alphas, alpha),
        0.0 if beta is None else next(betas, beta),
    )
