"""What the commands print for people: consoles, tables, and numbers with units."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNKNOWN_WIDTH: Final = 80
"""Columns that rich assumes where neither a terminal nor COLUMNS tells."""
_WIDTH_ELSEWHERE: Final = 140
"""Columns that we take there, such as in a file."""


def stdout() -> Console:
    """Return a console for results."""
    return _console(stderr=False)


def stderr() -> Console:
    """Return a console for everything that is no result."""
    return _console(stderr=True)


def note(text: str) -> None:
    """Print a remark on stderr."""
    stderr().print(Text(text), style="dim", highlight=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """Print ``data`` on stdout; what JSON has no number for (infinities) becomes null."""
    typer.echo(to_json(data))


def to_json(data: Any) -> str:
    """Return ``data`` as JSON text that every parser reads."""
    return json.dumps(_plain(data), indent=1)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", left: int = 1
) -> Table:
    """Return a table whose first ``left`` columns are text and whose others are numbers."""
    made = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return made


def mark(good: bool | None, text: str) -> Text:
    """Return text in green, red or (for None) yellow."""
    return Text(text, style={True: "green", False: "bold red", None: "yellow"}[good])


def show_bytes(count: float) -> str:
    """Return bytes with a binary unit: ``97.6 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def show_seconds(seconds: float) -> str:
    """Return a time with the unit that suits it: ``8.3 us``, ``35.2 ms``, ``1.42 s``."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def show_number(value: float) -> str:
    """Return a number with four significant digits."""
    return f"{value:.4g}"


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if console.is_terminal or console.width != _UNKNOWN_WIDTH:
        return console
    return Console(stderr=stderr, highlight=False, width=_WIDTH_ELSEWHERE)


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(k): _plain(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(v) for v in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data
