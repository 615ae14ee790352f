"""Batch sizes and shapes of one measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lamina.cli.options import BuildOptions
from lamina.cli.shapes import Given, Shape, likeliest
from lamina.errors import ConfigError
from lamina.importers.onnx import load as load_onnx
from lamina.ir.dims import Dim
from lamina.ir.types import TensorType, ValueType
from lamina.runtime.engine import Engine


def with_batch(model: Path, options: BuildOptions, batch: int) -> BuildOptions:
    """Return the options with a static shape for each input whose first axis is symbolic.

    Inputs with a shape of their own keep it; 0 changes nothing.  Raises ConfigError when no input
    has such an axis, or when other axes are symbolic too.
    """
    if not batch:
        return options
    inputs = {v.name: v.type for v in load_onnx(model).inputs}
    shapes: dict[str, Given] = dict(options.shapes)
    for name, type in inputs.items():
        if name not in shapes and (shape := _batched(name, type, batch)) is not None:
            shapes[name] = shape
    if shapes == options.shapes:
        listed = ", ".join(f"{name}: {type}" for name, type in inputs.items())
        raise ConfigError(
            f"no input has a symbolic first axis ({listed})", hint="leave out --batch"
        )
    return dataclasses.replace(options, shapes=shapes)


def shaped_inputs(
    engine: Engine, shapes: Mapping[str, Given], batch: int, seed: int = 0
) -> dict[str, Any]:
    """Return random inputs of an engine, of the given shapes or batch where it has a choice.

    Floats are normal, integers zero, as in ``Engine.example_inputs``.
    """
    feed = engine.example_inputs(seed)
    rng = np.random.default_rng(seed)
    for port in engine.inputs:
        shape = likeliest(shapes[port.name]) if port.name in shapes else None
        if shape is None and batch:
            shape = _batched_example(port.type, feed[port.name].shape, batch)
        if shape is not None and shape != feed[port.name].shape:
            dtype = feed[port.name].dtype
            random = rng.standard_normal(shape)
            is_float = isinstance(port.type, TensorType) and port.type.dtype.is_float
            feed[port.name] = (random if is_float else 0 * random).astype(dtype)
    return feed


def batch_size(inputs: Mapping[str, Any]) -> int:
    """Return the first axis that all inputs with axes agree on, else 1."""
    sizes = {x.shape[0] for x in inputs.values() if x.ndim}
    return int(sizes.pop()) if len(sizes) == 1 else 1


def _batched(name: str, type: ValueType, batch: int) -> Shape | None:
    if not isinstance(type, TensorType) or not type.shape or isinstance(type.shape[0], int):
        return None
    rest: list[int] = []
    for axis, d in enumerate(type.shape[1:], 1):
        if not isinstance(d, int):
            raise ConfigError(
                f"axis {axis} of input {name!r} is symbolic too ({type})",
                hint=f"give its whole shape: --shapes {name}:{batch}x...",
            )
        rest.append(d)
    return (batch, *rest)


def _batched_example(type: ValueType, shape: tuple[int, ...], batch: int) -> Shape | None:
    if not isinstance(type, TensorType) or not shape:
        return None
    first: Dim = type.shape[0]
    return None if isinstance(first, int) else (batch, *shape[1:])
