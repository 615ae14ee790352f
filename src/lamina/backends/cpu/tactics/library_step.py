"""Turns a oneDNN specification into a step, with constants packed at build time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lamina.backends.cpu.onednn import packing, primitives, serialization
from lamina.backends.cpu.onednn.attributes import EltwisePostOp
from lamina.backends.cpu.onednn.memory import as_request
from lamina.backends.cpu.onednn.primitives import Specification
from lamina.backends.cpu.target import CpuTarget
from lamina.ir.attributes import substitute_attribute
from lamina.ir.dims import Expr
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.ops import Epilogue
from lamina.ops.kinds import ActivationKind
from lamina.plan.plan import StepKind
from lamina.tactics.candidate import Draft, Packed, Role

_ELTWISE: Mapping[ActivationKind, tuple[str, float | None, float | None]] = {
    ActivationKind.RELU: ("relu", 0.0, 0.0),
    ActivationKind.LEAKY_RELU: ("relu", None, 0.0),
    ActivationKind.CLIP: ("clip", None, None),
    ActivationKind.SIGMOID: ("logistic", 0.0, 0.0),
    ActivationKind.TANH: ("tanh", 0.0, 0.0),
    ActivationKind.GELU: ("gelu_erf", 0.0, 0.0),
    ActivationKind.GELU_TANH: ("gelu_tanh", 0.0, 0.0),
    ActivationKind.SILU: ("swish", None, 0.0),
    ActivationKind.HARD_SWISH: ("hardswish", 1 / 6, 0.5),
    ActivationKind.HARD_SIGMOID: ("hardsigmoid", None, None),
    ActivationKind.ELU: ("elu", None, 0.0),
    ActivationKind.SOFTPLUS: ("soft_relu", 1.0, 0.0),
    ActivationKind.MISH: ("mish", 0.0, 0.0),
}


def eltwise(epilogue: Epilogue) -> EltwisePostOp | None:
    """Return oneDNN's form of an activation, or None where it has none."""
    found = _ELTWISE.get(epilogue.kind)
    if found is None:
        return None
    algorithm, alpha, beta = found
    alpha = epilogue.alpha if alpha is None else alpha
    beta = epilogue.beta if beta is None else beta
    return EltwisePostOp(algorithm, alpha, beta)


def library_draft(
    target: CpuTarget,
    spec: Any,
    arguments: Mapping[str, Role],
    packed: Mapping[str, np.ndarray],
) -> Draft:
    """Return the step of a specification.

    ``arguments`` says what each argument is; ``packed`` holds constants that are brought into the
    layout that the library chooses for the likeliest sizes, which the step then asks for by name.
    (An alternative implementation is found by its place among those that take any layout.)
    """
    assert target.library is not None
    env: dict[str, Any] = dict(target.env)
    primitive = primitives.create(target.library, concrete_spec(spec, env), threads=target.threads)
    roles = dict(arguments)
    for name, array in packed.items():
        chosen = primitive.layout(name)
        request = as_request(target.library, chosen)
        if request is not None and not spec.attributes.alternative:
            spec = dataclasses.replace(spec, **{name: request})
        roles[name] = Packed(DType(chosen.dtype), chosen.size_bytes, _pack(primitive, array, name))
    return Draft(
        kind=StepKind.PRIMITIVE,
        arguments=tuple(roles.values()),
        names=tuple(roles),
        threads=target.threads,
        spec=json.dumps(encode_spec(spec), sort_keys=True),
        is_reference=primitive.implementation.startswith("ref"),
    )


def _pack(primitive: primitives.Primitive, array: np.ndarray, name: str) -> Callable[[], Weight]:
    return lambda: Weight(packing.pack(primitive, array, name))


def concrete_spec(spec: Any, env: Mapping[str, Any]) -> Specification:
    """Return a specification with numbers in place of symbols."""

    def walk(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(walk(v) for v in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, Expr | type):
            changed = {f.name: walk(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return dataclasses.replace(value, **changed)
        return substitute_attribute(value, env)

    return walk(spec)  # type: ignore[no-any-return]


def encode_spec(spec: Any) -> Any:
    """Return a specification as JSON data in which a symbolic dimension is ``{"$": text}``."""

    def walk(value: Any) -> Any:
        if isinstance(value, Expr):
            return {"$": str(value)}
        if isinstance(value, dict):
            return {k: walk(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [walk(v) for v in value]
        return value

    return walk(serialization.to_json(spec))
