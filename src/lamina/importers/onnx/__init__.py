"""ONNX models to graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lamina.importers.onnx import (
    activations,
    attention,
    control,
    elementwise,
    generate,
    gradient,
    indexing,
    linear,
    loading,
    movement,
    norms,
    plugins,
    pooling,
    quantization,
    random,
    recurrent,
    reductions,
    signal,
    slices,
    vision,
)
from lamina.importers.onnx.loading import Options
from lamina.importers.onnx.model_file import Source
from lamina.importers.onnx.report import NodeReport, Report, Support
from lamina.importers.onnx.scope import NodeImporter
from lamina.importers.onnx.table import Table
from lamina.importers.onnx.value_types import Shapes
from lamina.ir.graph import Graph

TABLE = Table(
    activations.table,
    attention.table,
    control.table,
    elementwise.table,
    generate.table,
    gradient.table,
    indexing.table,
    linear.table,
    movement.table,
    norms.table,
    pooling.table,
    quantization.table,
    random.table,
    recurrent.table,
    reductions.table,
    signal.table,
    slices.table,
    vision.table,
)
"""Every ONNX operator that is lowered to operators of our own."""


def load(
    source: Source,
    *,
    shapes: Shapes | None = None,
    folder: Path | None = None,
    extensions: Sequence[NodeImporter] = (),
) -> Graph:
    """Import an ONNX model from a path, bytes or a ModelProto.

    ``shapes`` fixes sizes: a symbol's name maps to its number, or an input's name to all of its
    dimensions (numbers or names).  ``folder`` is where the external data of a model in memory is,
    and ``extensions`` are asked first for every node.  Raises ImportFailed for a model that is
    damaged, and Unsupported, listing every node, for one that uses what cannot be expressed.
    """
    options = Options(shapes=shapes, folder=folder, extensions=(*extensions, plugins.call))
    return loading.load_with(TABLE, source, options)


def check(
    source: Source,
    *,
    shapes: Shapes | None = None,
    folder: Path | None = None,
    extensions: Sequence[NodeImporter] = (),
) -> Report:
    """Return how each node of a model would be handled: natively, on the host, or not at all."""
    options = Options(shapes=shapes, folder=folder, extensions=(*extensions, plugins.call))
    return loading.check_with(TABLE, source, options)


__all__ = ["TABLE", "NodeReport", "Report", "Support", "check", "load"]
