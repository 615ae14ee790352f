"""The repository's own files, for the tests of its rules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "lamina"


@dataclass(frozen=True)
class Function:
    place: str
    lines: int


def python_files(*folders: str) -> list[Path]:
    """Every Python file below the named folders of the repository."""
    return sorted(f for folder in folders for f in (ROOT / folder).rglob("*.py"))


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def functions(file: Path) -> Iterator[Function]:
    """Every function and method; decorators, parameters and docstring are not counted."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            lines = (node.end_lineno or 0) - first.lineno + 2 - docstring
            yield Function(f"{name(file)}:{node.lineno} {node.name}", lines)
