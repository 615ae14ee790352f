"""Collects the kernels and constants of a section while its programs are assembled."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

from lamina.backends.cpu.native import RUN, RUN_TIMED, Kind, Word
from lamina.backends.cpu.tactics.candidate import Candidate, Draft, Placement
from lamina.codegen.layout import Layout
from lamina.codegen.llvm.builder import Module
from lamina.codegen.llvm.compile_pool import CompilePool
from lamina.codegen.llvm.link import link
from lamina.codegen.llvm.step_loop import step_loop_module
from lamina.codegen.llvm.target import Isa, compile_module
from lamina.ir.weight import Weight
from lamina.plan.plan import CodeImage

Layouts = tuple[Layout, ...]


class Code:
    """Kernel modules, by text, and blobs, by contents; equal ones are kept once."""

    def __init__(self, isa: Isa, pool: CompilePool | None = None) -> None:
        self.isa, self.pool = isa, pool
        self.modules: list[str] = []
        self.blobs: list[Weight] = []
        self._blob_index: dict[Weight, int] = {}
        self._names = 0
        self._drafts: dict[Hashable, Draft] = {}
        self._stems: dict[str, str] = {}

    def fresh_name(self) -> str:
        """Return a stem for the kernels of one step."""
        self._names += 1
        return f"k{self._names}_"

    def draft(self, candidate: Candidate, operands: Layouts, results: Layouts) -> Draft:
        """Return the step of a candidate; its kernels are added, equal ones only once."""
        key = (candidate.key, operands, results) if candidate.key else None
        if key is not None and key in self._drafts:
            return self._drafts[key]
        stem = self.fresh_name()
        draft = self.add(candidate.draft(Placement(operands, results, stem)), stem)
        if key is not None:
            self._drafts[key] = draft
        return draft

    def add(self, draft: Draft, stem: str) -> Draft:
        """Add the kernels of a draft whose names begin with ``stem``, or find equal ones."""
        if not draft.module:
            return draft
        text = draft.module.replace(f"@{stem}", "@k")
        have = self._stems.setdefault(text, stem)
        if have == stem:
            self.modules.append(draft.module)
            return draft
        symbols = tuple(have + s.removeprefix(stem) for s in draft.symbols)
        return dataclasses.replace(draft, symbols=symbols)

    def add_blob(self, weight: Weight) -> int:
        """Add a constant and return its number."""
        if weight not in self._blob_index:
            self._blob_index[weight] = len(self.blobs)
            self.blobs.append(weight)
        return self._blob_index[weight]

    def image(self) -> CodeImage:
        """Compile and link all modules, with the step loop."""
        objects = [step_loop_object(self.isa), *compile_all(self.modules, self.isa, self.pool)]
        linked = link(objects)
        return CodeImage(
            code=linked.code,
            symbols=dict(linked.symbols),
            externals=tuple((str(n), int(at)) for n, at in linked.externals),
        )


def compile_all(modules: Sequence[str], isa: Isa, pool: CompilePool | None = None) -> list[bytes]:
    """Compile modules, in several processes when they are many."""
    if pool is not None and len(modules) >= 2:
        return pool.compile(modules)
    return [compile_module(m, isa) for m in modules]


_step_loops: dict[Isa, bytes] = {}


def step_loop_object(isa: Isa) -> bytes:
    """Return the compiled step loop."""
    if isa not in _step_loops:
        words = {w.name: int(w) for w in Word}
        kinds = {k.name: int(k) for k in Kind}
        text = step_loop_module(str(Module(isa)), words, kinds, (RUN, RUN_TIMED))
        _step_loops[isa] = compile_module(text, isa)
    return _step_loops[isa]
