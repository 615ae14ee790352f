"""Reads the pages of documentation and runs their Python.

``python -m tests.docs.pages docs/pipeline.md``, from the root of the repository, writes what each
block of Python prints into the ``text`` or ``console`` block below it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_WITH_OUTPUT = re.compile(
    r"^```python\n(.*?)^```$(?:\n\n```(text|console)\n.*?^```$)?", re.MULTILINE | re.DOTALL
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """Python of a page with its line, and what it prints (None where that may differ)."""

    line: int
    code: str
    output: str | None


def examples(page: Path) -> Iterator[Example]:
    """Yield the blocks of Python; a ``text`` block right below one is exactly what it prints."""
    text = page.read_text()
    blocks = [(m.start(), m.end(), m[1], m[2]) for m in _FENCE.finditer(text)]
    for i, (start, end, language, code) in enumerate(blocks):
        if language != "python":
            continue
        below = blocks[i + 1] if i + 1 < len(blocks) else None
        follows = below is not None and text[end : below[0]].strip() == ""
        exact = below[3] if below is not None and follows and below[2] == "text" else None
        yield Example(text.count("\n", 0, start) + 2, code, exact)


def run(page: Path) -> list[tuple[Example, str]]:
    """Run the examples of a page in one namespace; return each with what it printed."""
    names: dict[str, object] = {"__name__": "__main__"}
    done = []
    for example in examples(page):
        printed = io.StringIO()
        padded = "\n" * (example.line - 1) + example.code
        with contextlib.redirect_stdout(printed):
            exec(compile(padded, str(page), "exec"), names)
        done.append((example, printed.getvalue()))
    return done


def fill(page: Path) -> None:
    """Write what the examples of a page print into the page."""
    text = page.read_text()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("src").symlink_to(ROOT / "src")
        os.environ["LAMINA_CACHE_DIR"] = folder
        printed = iter([out for _, out in run(page)])

    def block(m: re.Match[str]) -> str:
        out = next(printed)
        return f"```python\n{m[1]}```\n\n```{m[2]}\n{out}```" if m[2] else m[0]

    page.write_text(_WITH_OUTPUT.sub(block, text))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        fill(Path(argument).resolve())
