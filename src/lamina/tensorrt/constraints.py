"""Constraints on the precision of layers, as far as a build can obey them.

``FLOAT`` keeps the products of a layer in f32; the types of 16 and 8 bits are what a layer gets
where its flag is set.  OBEY_PRECISION_CONSTRAINTS (and STRICT_TYPES) makes an error of those that
cannot be met, PREFER_PRECISION_CONSTRAINTS a warning.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lamina.config import Precision
from lamina.errors import ConfigError
from lamina.ir.graph import Graph
from lamina.passes.named_nodes import node_names
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.network.layer import ILayer

_FLAGS = {"HALF": "FP16", "BF16": "BF16", "INT8": "INT8", "FP8": "FP8"}
"""The flag that a type of computation needs."""

_BUILDS: dict[str, tuple[Precision, ...]] = {"HALF": ("fp16",), "BF16": ("bf16",)}
"""The precisions of builds that narrow to a type."""

_OBEY = frozenset({"OBEY_PRECISION_CONSTRAINTS", "STRICT_TYPES"})


def float_layers(layers: Sequence[ILayer], graph: Graph) -> tuple[str, ...]:
    """Return the source nodes of a graph whose layers compute in f32."""
    chosen = [x._origin for x in layers if x._precision and x._precision.name == "FLOAT"]
    known = node_names(graph) if chosen else ()
    return tuple(origin for origin in chosen if origin in known)


def check_constraints(
    layers: Sequence[ILayer],
    flags: Collection[str],
    precision: Precision,
    quantized: Collection[str],
    reporter: Reporter,
) -> None:
    """Raise ConfigError, or warn, for constraints that this build does not meet.

    ``precision`` is that of the build, ``quantized`` has the origins of layers in INT8.
    """
    strict = bool(_OBEY & set(flags))
    if not strict and "PREFER_PRECISION_CONSTRAINTS" not in flags:
        return
    for layer in layers:
        why = _unmet(layer, flags, precision, quantized)
        if why is None:
            continue
        fact = f"layer {layer._name!r} is to compute in {layer.precision.name}, but {why}"
        if strict:
            raise ConfigError(fact, hint="set PREFER_PRECISION_CONSTRAINTS to go on without")
        reporter.warning(fact)


def _unmet(
    layer: ILayer, flags: Collection[str], precision: Precision, quantized: Collection[str]
) -> str | None:
    wanted = None if layer._precision is None else layer._precision.name
    flag = _FLAGS.get(wanted or "")
    if wanted is None or flag is None:
        return None
    if flag not in flags:
        return f"the flag {flag} is not set"
    if layer._kind not in _CONTRACTIONS:
        return None  # what is narrow in memory is widened in registers, whatever the type
    if wanted == "INT8" and quantized and layer._origin not in quantized:
        return "its operand has neither a dynamic range nor a scale"
    if wanted in _BUILDS and precision not in _BUILDS[wanted] and layer._origin not in quantized:
        return f"products that are not of INT8 are of {precision} in this build"
    return None


_CONTRACTIONS = frozenset({"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED"})
