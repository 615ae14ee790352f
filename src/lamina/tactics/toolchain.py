"""Names for the versions of what makes kernels."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def sources_digest(*folders: Path) -> str:
    """Return a digest of the Python files in folders, at any depth: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def package_versions(names: Sequence[str]) -> list[str]:
    """Return those of some packages that are installed, each with its version."""
    found = []
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return found
