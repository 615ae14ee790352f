"""Versions of kernels: times of a kernel that has changed since are not taken from the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from lamina.backends.cuda.compile import library_versions, triton_version
from lamina.backends.cuda.kernel_sources import digest_of, generator_digest, module_digest
from lamina.backends.cuda.problems import is_library
from lamina.backends.cuda.request import ASSEMBLY, MODULE
from lamina.errors import LaminaError
from lamina.ir.graph import Node
from lamina.tactics.candidate import Candidate, Placement
from lamina.tactics.choices import dense_layouts
from lamina.tactics.relaid import no_step

_DIGITS: Final = 6


class KernelVersions:
    """A version for each tactic: a digest of what its kernels are made of.

    That is the compiler's version and the modules of its kernels, or for generated ones the
    generator; for a library the versions of its packages.
    """

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def learn(self, node: Node, candidates: Sequence[Candidate]) -> None:
        """Look at the kernels of tactics that were not seen before."""
        for c in candidates:
            family = _family(c.tactic)
            if family not in self._known:
                version = _version(node, c)
                if version is not None:
                    self._known[family] = version

    def of(self, tactic: str) -> str:
        """Return the version of a tactic by its name, "" for one without kernels."""
        return self._known.get(_family(tactic), "")


def _family(tactic: str) -> str:
    return tactic.split(" ")[0]


def _version(node: Node, c: Candidate) -> str | None:
    """Return the version of a candidate's tactic; None when this one has no step to tell it by."""
    if c.draft is no_step:
        return ""
    if is_library(c):
        versions = library_versions(_family(c.tactic).split("-")[0])
        return digest_of(versions)[:_DIGITS] if versions else ""
    try:
        draft: Any = c.draft(Placement(*dense_layouts(node, c), ""))
    except LaminaError:
        return None
    parts = sorted({_sources(x.kernel.source) for x in draft.launches})
    return digest_of([triton_version(), *parts])[:_DIGITS] if parts else ""


def _sources(source: str) -> str:
    """Return a digest of what a kernel is made of."""
    if source.startswith(MODULE):
        return module_digest(source)
    return "" if source.startswith(ASSEMBLY) else generator_digest()
