"""What the machine code of a kernel follows from, besides its request."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from lamina.backends.cuda.request import MODULE

_KERNELS: Final = Path(__file__).parent / "kernels"
_PACKAGE: Final = f"{__package__}.kernels."
_GENERATOR: Final = Path(__file__).parents[2] / "codegen"
_IMPORTED: Final = re.compile(rf"^from {re.escape(_PACKAGE)}(\w+) import", re.MULTILINE)
_NAMED: Final = re.compile(rf"^from {re.escape(_PACKAGE[:-1])} import (.+)$", re.MULTILINE)


def digest_of(texts: Iterable[str]) -> str:
    """Return a digest of some texts: 32 hexadecimal digits."""
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=16).hexdigest()


@cache
def module_digest(source: str) -> str:
    """Return a digest of the module that a request names, and of the kernels' modules it imports.

    "" for a ``source`` that is no module of Lamina's kernels.
    """
    found: set[str] = set()
    open_ = (
        {source.removeprefix(MODULE + _PACKAGE)} if source.startswith(MODULE + _PACKAGE) else set()
    )
    while open_:
        found |= open_
        open_ = {m for name in open_ for m in _imports(_text(name))} - found
    return digest_of(_text(name) for name in sorted(found)) if found else ""


@cache
def generator_digest() -> str:
    """Return a digest of what writes the text of kernels."""
    files = (*_GENERATOR.glob("*.py"), *(_GENERATOR / "triton").rglob("*.py"))
    return digest_of(path.read_text() for path in sorted(files))


@cache
def _text(module: str) -> str:
    return (_KERNELS / f"{module}.py").read_text()


def _imports(text: str) -> list[str]:
    """Return the modules of kernels that another imports, or imports from."""
    named = [n.strip() for names in _NAMED.findall(text) for n in names.split(",")]
    return [*_IMPORTED.findall(text), *named]
