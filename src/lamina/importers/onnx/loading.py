"""Entry points: load a model as a graph, or report how each of its nodes would be handled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from lamina.errors import ImportFailed, LaminaError, Unsupported
from lamina.importers.onnx.importer import import_graph
from lamina.importers.onnx.model_file import Source, open_model
from lamina.importers.onnx.report import Report
from lamina.importers.onnx.scope import NodeImporter, Scope, Session
from lamina.importers.onnx.table import Table
from lamina.importers.onnx.tensors import TensorReader
from lamina.importers.onnx.topology import initializer_names
from lamina.importers.onnx.value_types import Shapes, Symbols, value_type
from lamina.ir.graph import Graph

FIRST_IR_WITH_OPSETS = 3
OLDEST_OPSET = 1
NEWEST_OPSET = onnx.defs.onnx_opset_version()


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a caller may tell an import beside the model."""

    shapes: Shapes | None = None
    folder: Path | None = None
    extensions: Sequence[NodeImporter] = ()


def load_with(table: Table, source: Source, options: Options) -> Graph:
    """Import ``source`` with the importers of ``table``; raises ImportFailed or Unsupported."""
    session, graph, results = _guarded(table, source, options)
    unsupported = Report(tuple(session.report)).unsupported
    if unsupported:
        error = Unsupported(
            f"{len(unsupported)} of {len(session.report)} nodes are not supported",
            hint="replace these nodes, or give their operators as functions in the model",
        )
        error.where += [f"{n.name}: {n.reason}" for n in unsupported]
        raise error
    for proto, value in zip(session.model.graph.output, results, strict=True):
        graph.output(value, proto.name)
    session.release_dead(graph)
    return graph


def check_with(table: Table, source: Source, options: Options) -> Report:
    """Return how each node of ``source`` is handled; raises ImportFailed for a damaged model."""
    session, _, _ = _guarded(table, source, options)
    return Report(tuple(session.report))


def _guarded(table: Table, source: Source, options: Options) -> tuple[Session, Graph, list[Any]]:
    try:
        return _import(table, source, options)
    except LaminaError:
        raise
    except Exception as e:
        raise ImportFailed(
            f"the model is malformed: {type(e).__name__}: {e}",
            hint="check the model with onnx.checker",
        ) from e


def _import(table: Table, source: Source, options: Options) -> tuple[Session, Graph, list[Any]]:
    model, folder, data = open_model(source, options.folder)
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    symbols = Symbols(options.shapes)
    reader = TensorReader(folder, data)
    session = Session(model, table, reader, symbols, functions, options.extensions)
    graph = Graph(name=model.graph.name)
    scope = Scope(session, graph, _opsets(model))
    constants = initializer_names(model.graph)
    inputs = [i for i in model.graph.input if i.name not in constants]
    symbols.check_used([i.name for i in inputs])
    for declared in inputs:
        if declared.name in scope.values:
            raise ImportFailed(f"value {declared.name!r} is defined twice: as two inputs")
        type_ = value_type(declared.type, symbols, declared.name)
        if type_ is None:
            raise ImportFailed(
                f"input {declared.name!r} has no declared rank or element type",
                hint=f"give its shape: shapes={{{declared.name!r}: (1, 3, 224, 224)}}",
            )
        scope.values[declared.name] = graph.input(declared.name, type_)
    return session, graph, import_graph(scope, model.graph)


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    if not opsets and model.ir_version >= FIRST_IR_WITH_OPSETS:
        raise ImportFailed(
            "the model does not say which opset it uses",
            hint="it is truncated, or was written without opset_import",
        )
    opsets = opsets or {"": 1}
    version = opsets.get("", NEWEST_OPSET)
    if not OLDEST_OPSET <= version <= NEWEST_OPSET:
        raise ImportFailed(
            f"the model uses opset {version}, supported are {OLDEST_OPSET} to {NEWEST_OPSET}",
            hint="a newer onnx package knows newer opsets; onnx.version_converter converts models",
        )
    return opsets
