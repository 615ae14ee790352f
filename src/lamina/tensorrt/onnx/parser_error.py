"""What went wrong while a model was parsed, with the node at fault."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from lamina.errors import GraphError, ImportFailed, LaminaError, Unsupported
from lamina.importers import onnx as importer
from lamina.importers.onnx.report import NodeReport
from lamina.importers.onnx.topology import describe, sorted_graph
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import ErrorCode
from lamina.tensorrt.error_reporting import Reporter


@dataclass(frozen=True)
class _Fault:
    code: str
    text: str
    node: int = -1
    node_name: str = ""
    operator: str = ""
    functions: tuple[str, ...] = ()
    file: str = str(importer.__file__)
    line: int = 0
    function: str = "load"


class ParserError:
    """One error of a parse; everything about it is told by methods."""

    def __init__(self, fault: _Fault) -> None:
        self._fault = fault

    def code(self) -> ErrorCode:
        """Return the kind of the error."""
        return ErrorCode.named(self._fault.code)

    def desc(self) -> str:
        """Return what is wrong."""
        return self._fault.text

    def file(self) -> str:
        """Return the source file that found the error."""
        return self._fault.file

    def line(self) -> int:
        """Return the line in that file, 0 where it is not known."""
        return self._fault.line

    def func(self) -> str:
        """Return the function in that file."""
        return self._fault.function

    def node(self) -> int:
        """Return the number of the node in the model, -1 when no node is at fault."""
        return self._fault.node

    def node_name(self) -> str:
        """Return the name of the node."""
        return self._fault.node_name

    def node_operator(self) -> str:
        """Return the operator of the node."""
        return self._fault.operator

    def local_function_stack(self) -> list[str]:
        """Return the functions of the model in which the node is, the outermost first."""
        return list(self._fault.functions)

    def local_function_stack_size(self) -> int:
        """Return how many functions of the model the node is in."""
        return len(self._fault.functions)

    def __str__(self) -> str:
        f = self._fault
        place = ""
        if f.node >= 0:
            place = f"In node {f.node} with name: {f.node_name} and operator: {f.operator} "
        return f"{place}({f.function}): {f.code}: {f.text}"

    __repr__ = __str__


class ErrorList:
    """Collects errors of parses; base of the parser and its refitter."""

    _reporter: Reporter

    def __init__(self) -> None:
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        """Number of errors since they were last cleared."""
        return len(self._errors)

    @checked
    def get_error(self, index: int) -> ParserError:
        """Return an error by its number; raises IndexError when there are fewer."""
        if not 0 <= index < len(self._errors):
            raise IndexError(f"there is no error {index} of {len(self._errors)}")
        return self._errors[index]

    def clear_errors(self) -> None:
        """Forget all errors."""
        self._errors.clear()

    def _fail(self, errors: Sequence[ParserError]) -> None:
        for error in errors:
            self._errors.append(error)
            self._reporter.error(str(error), "UNSUPPORTED_STATE")


class Places:
    """Finds the nodes of a model by the titles that the importer's messages give them."""

    def __init__(self, model: onnx.ModelProto | None) -> None:
        self._nodes: dict[str, tuple[int, onnx.NodeProto]] = {}
        if model is not None:
            from_output = {o: i for i, n in enumerate(model.graph.node) for o in n.output}
            for position, node in enumerate(_in_order(model)):
                index = from_output.get(next(iter(node.output), ""), position)
                self._nodes.setdefault(describe(node, position), (index, node))

    @property
    def count(self) -> int:
        """Number of nodes whose titles differ."""
        return len(self._nodes)

    def titles(self) -> list[tuple[str, int]]:
        """Return the title and the number of each node in the order of import."""
        return [(title, index) for title, (index, _) in self._nodes.items()]

    def fault(self, title: str, code: str, text: str, **where: Any) -> _Fault:
        """Describe a fault in the node called ``title``, or inside of its function."""
        outer, *inner = title.split("/") if title not in self._nodes else [title]
        if outer not in self._nodes:
            return _Fault(code, text, **where)
        index, node = self._nodes[outer]
        functions = (node.op_type, *(part.rpartition(" (")[2].rstrip(")") for part in inner[:-1]))
        return _Fault(
            code, text, index, node.name, node.op_type, functions if inner else (), **where
        )

    def of_reports(self, reports: Sequence[NodeReport]) -> list[ParserError]:
        """Return an error for each node that is not supported."""
        return [
            ParserError(
                self.fault(r.name, "UNSUPPORTED_NODE", f"{r.op_type} is not supported: {r.reason}")
            )
            for r in reports
        ]

    def of_exception(self, error: LaminaError) -> ParserError:
        """Return the error that an exception of the importer stands for."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = {"file": frame.filename, "line": frame.lineno or 0, "function": frame.name}
        lines = [w.removeprefix("from ") for w in error.where]
        title = next((t for t in reversed(lines) if t in self._nodes), "")
        return ParserError(self.fault(title, _code(error, bool(title)), str(error), **where))


def _in_order(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    try:
        return sorted_graph(model.graph)
    except ImportFailed:
        return list(model.graph.node)


def _code(error: LaminaError, at_a_node: bool) -> str:
    if isinstance(error, Unsupported):
        return "UNSUPPORTED_NODE"
    if isinstance(error, GraphError):
        return "INVALID_NODE" if at_a_node else "UNSUPPORTED_GRAPH"
    return "INVALID_NODE" if at_a_node else "INVALID_GRAPH"


__all__ = ["ParserError"]
