"""Collects the kernels and constants of a section while its programs are assembled."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Final

from lamina.backends.cpu.native import RUN, RUN_TIMED, Kind, PoolWord, Word
from lamina.codegen.layout import Layout
from lamina.codegen.llvm.builder import Module
from lamina.codegen.llvm.compile_pool import CompilePool, compiled
from lamina.codegen.llvm.link import link
from lamina.codegen.llvm.step_loop import step_loop_module
from lamina.codegen.llvm.target import Isa, compile_module
from lamina.codegen.workers import Message
from lamina.ir.dims import Dim
from lamina.ir.weight import Weight
from lamina.plan.plan import CodeImage
from lamina.tactics.candidate import Candidate, Draft, Placement

Layouts = tuple[Layout, ...]


STEM: Final = "stem_of_kernel_"
"""Stands in a module's text for the name that its contents decide."""


class Objects:
    """Compiled modules, by text: each is compiled once, beside this process where it has a pool."""

    def __init__(self, isa: Isa, pool: CompilePool | None = None) -> None:
        self.isa, self.pool = isa, pool
        self._begun: dict[str, Future[Message]] = {}
        self._objects: dict[str, bytes] = {}

    def begin(self, text: str) -> None:
        """Let a pool compile a module while this process does something else."""
        if self.pool is not None and text not in self._begun:
            self._begun[text] = self.pool.submit(text)

    def compiled(self, text: str) -> bytes:
        """Return the object of a module; raises BuildError when it is malformed."""
        if text not in self._objects:
            begun = self._begun.get(text)
            self._objects[text] = compiled(begun) if begun else compile_module(text, self.isa)
        return self._objects[text]


class Code:
    """Kernel modules and blobs, by contents; equal ones are kept once."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.modules: dict[str, str] = {}
        self.blobs: list[Weight] = []
        self.operations: tuple[Dim, ...] = ()
        self._blob_index: dict[Weight, int] = {}
        self._drafts: dict[Hashable, Draft] = {}

    def draft(self, candidate: Candidate, operands: Layouts, results: Layouts) -> Draft:
        """Return the step of a candidate; its kernels are added, equal ones only once."""
        key = (candidate.key, operands, results) if candidate.key else None
        if key is not None and key in self._drafts:
            return self._drafts[key]
        draft = self.add(candidate.draft(Placement(operands, results, STEM)))
        if key is not None:
            self._drafts[key] = draft
        return draft

    def add(self, draft: Draft) -> Draft:
        """Add the kernels of a draft under a name that follows from their text.

        So equal kernels are compiled once, and images list them alike however they were found.
        """
        if not draft.module:
            return draft
        name = f"k{hashlib.blake2b(draft.module.encode(), digest_size=8).hexdigest()}_"
        if name not in self.modules:
            self.modules[name] = draft.module.replace(STEM, name)
            self.objects.begin(self.modules[name])
        symbols = tuple(s.replace(STEM, name) for s in draft.symbols)
        return dataclasses.replace(draft, symbols=symbols, module="")

    def add_module(self, text: str) -> None:
        """Add functions that no step calls, under the names that they have."""
        self.modules[text] = text
        self.objects.begin(text)

    def add_blob(self, weight: Weight) -> int:
        """Add a constant and return its number."""
        if weight not in self._blob_index:
            self._blob_index[weight] = len(self.blobs)
            self.blobs.append(weight)
        return self._blob_index[weight]

    def image(self) -> CodeImage:
        """Compile and link all modules, with the step loop."""
        kernels = [self.objects.compiled(text) for text in self.modules.values()]
        linked = link([step_loop_object(self.objects.isa), *kernels])
        return CodeImage(
            code=linked.code,
            symbols=dict(linked.symbols),
            externals=tuple((str(n), int(at)) for n, at in linked.externals),
        )


_step_loops: dict[Isa, bytes] = {}


def step_loop_object(isa: Isa) -> bytes:
    """Return the compiled step loop."""
    if isa not in _step_loops:
        words = {w.name: int(w) for w in Word}
        kinds = {k.name: int(k) for k in Kind}
        pool = {w.name: int(w) for w in PoolWord}
        text = step_loop_module(str(Module(isa)), words, kinds, pool, (RUN, RUN_TIMED))
        _step_loops[isa] = compile_module(text, isa)
    return _step_loops[isa]
