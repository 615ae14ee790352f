"""Writes small models as text, imports them and runs them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser

from lamina.importers.onnx import load
from lamina.ir.interpret import interpret


def model(graph: str, opset: int = 21, functions: str = "", domains: str = "") -> onnx.ModelProto:
    """Parse a graph in ONNX's text form; ``functions`` are definitions that follow it."""
    imports = f'"" : {opset}{domains}'
    return onnx.parser.parse_model(
        f"<ir_version: 10, opset_import: [{imports}]> {graph} {functions}"
    )


def run(source, *inputs, **shapes):
    """Import a model and interpret it; returns its results."""
    graph = load(source if isinstance(source, onnx.ModelProto) else model(source), **shapes)
    return interpret(graph, list(inputs))


def normal(*shape, seed=0, dtype=np.float32):
    """Return seeded normal numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def ops_of(graph):
    """Return the text names of the operators of a graph, without constants."""
    return [node.op.name for node in graph.nodes() if node.op.name != "const"]
