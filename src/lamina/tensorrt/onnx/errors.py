"""Errors of the ONNX parser."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.tensorrt.enums import ErrorCode


@dataclass(frozen=True)
class ParserError:
    """One reason why a model cannot be used; every property is a method."""

    _code: str
    _desc: str
    _node: int = -1
    _node_name: str = ""
    _node_operator: str = ""

    def code(self) -> ErrorCode:
        """Return the kind of error."""
        return ErrorCode.named(self._code)

    def desc(self) -> str:
        """Return what is wrong."""
        return self._desc

    def file(self) -> str:
        """Return the source file that found the error."""
        return "lamina/importers/onnx"

    def line(self) -> int:
        """Return the line of that file, 0 for none."""
        return 0

    def func(self) -> str:
        """Return the function that found the error."""
        return "parse"

    def node(self) -> int:
        """Return the number of the node in the model, -1 for none."""
        return self._node

    def node_name(self) -> str:
        """Return the name of the node."""
        return self._node_name

    def node_operator(self) -> str:
        """Return the operator of the node."""
        return self._node_operator

    def local_function_stack(self) -> list[str]:
        """Return the functions of the model that the node is in."""
        return []

    def local_function_stack_size(self) -> int:
        """Return how many functions of the model the node is in."""
        return 0

    def __str__(self) -> str:
        where = f"node {self._node} [{self._node_operator}] {self._node_name!r}: "
        return f"{where if self._node >= 0 else ''}{self._code}: {self._desc}"

    __repr__ = __str__


__all__ = ["ParserError"]
