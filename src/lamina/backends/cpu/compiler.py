"""Compiles an optimized graph for the CPU: candidates, times, layouts, views, steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lamina.backends.compiled import Compiled, Report
from lamina.backends.cpu.code import STEM, Code, Objects
from lamina.backends.cpu.driver import CpuDriver
from lamina.backends.cpu.kernels import conversions, moving, winograd_weights
from lamina.backends.cpu.lowering import lower
from lamina.backends.cpu.measure import Measurer
from lamina.backends.cpu.native import RUN
from lamina.backends.cpu.selection import enumerate_candidates, problem_key
from lamina.backends.cpu.tactics.reorder import reorder_draft
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.layout import Layout
from lamina.codegen.llvm import target as llvm_target
from lamina.codegen.llvm.compile_pool import CompilePool
from lamina.config import BuildConfig, isa_limit
from lamina.errors import where
from lamina.ir.dims import Dim
from lamina.ir.graph import Graph, Node
from lamina.ir.types import TensorType
from lamina.ir.weight import Weight
from lamina.ops import (
    Concat,
    Const,
    Convolution,
    Deconvolution,
    If,
    Loop,
    MaxPoolIndices,
    Pool,
    QuantizedConvolution,
)
from lamina.plan.halves import halve
from lamina.plan.plan import Program, Section
from lamina.tactics.assemble import Assembler
from lamina.tactics.cache import TimingCache
from lamina.tactics.candidate import COUNTED, Candidate, Draft, Placement
from lamina.tactics.choices import Choices, dense_layouts, describe
from lamina.tactics.layouts import LayoutCosts, choose_layouts, spatial_ranks
from lamina.tactics.policy import Policy
from lamina.tactics.toolchain import package_versions, sources_digest
from lamina.tactics.tuning_time import TuningTime
from lamina.tactics.views import STRIDED_VIEW, ViewPlan, likely_share, plan_concats, view_offset

_SPATIAL = (Convolution, QuantizedConvolution, Deconvolution, Pool, MaxPoolIndices)
_COSTS = LayoutCosts(start=2.0, bytes_per_microsecond=8e3, host=50.0)

_SOURCES = (Path(__file__).parent, Path(__file__).parents[2] / "codegen")
"""What decides which kernels can be made, besides the libraries."""

_WORTH_KERNELS_BYTES = 1 << 20
"""Transformed filters from which on kernels for refits are worth their 4 KiB.

From so many constants on, conversions from and to f16 are worth 400 bytes.
"""

_POOL_NODES = 60
"""Smaller graphs compile faster in this process than others start."""


class CpuCompiler:
    """Compiles graphs for this machine's CPU."""

    def __init__(
        self,
        config: BuildConfig,
        env: Mapping[str, int],
        report: Report,
        policy: Policy | None = None,
    ) -> None:
        self.config, self.report = config, report
        self.policy = policy or Policy()
        self.driver = CpuDriver(config.threads or None)
        self.reference = config.target == "reference"
        isa = llvm_target.AVX2 if isa_limit() == "avx2" else llvm_target.host_isa()
        allowed = config.libraries is None or "onednn" in config.libraries
        library = self.driver.library if allowed else None
        self.target = CpuTarget(library, isa, self.driver.threads, dict(env))

    @property
    def toolchain(self) -> str:
        """Return what the timing cache calls the versions of what makes kernels."""
        versions = package_versions(("llvmlite",))
        return ", ".join([*versions, f"sources {sources_digest(*_SOURCES)[:8]}"])

    def compile(self, graph: Graph, cache: TimingCache) -> Compiled:
        """Return the section that runs ``graph`` on this machine."""
        self.target = dataclasses.replace(self.target, spatial_ranks=spatial_ranks(graph, _SPATIAL))
        if not self.reference:
            lower(graph, self.target)
        with self._pool(graph) as pool:
            objects = Objects(self.target.isa, pool)
            time = TuningTime(self.config.time_budget)
            self.measurer = Measurer(
                self.target,
                cache,
                objects,
                self._progress("tactics"),
                average=self.config.timing_average,
                least=self.config.timing_runs,
                time=time,
            )
            while True:
                self.policy.begin()
                code = Code(objects)
                fallbacks: list[str] = []
                program = self._program(graph, code, fallbacks)
                if not self.policy.again:
                    break
            self.policy.finish()
            self.report("compile", 0, 1, f"{len(code.modules)} kernels")
            if _worth_kernels(code.blobs):
                code.add_module(winograd_weights.module_text(self.target.isa))
            if _bytes(w for w in code.blobs if w.recipe is not None) >= _WORTH_KERNELS_BYTES:
                code.add_module(moving.module_text(self.target.isa, self.config.precision))
            if self.config.precision == "fp16" and _bytes(code.blobs) >= _WORTH_KERNELS_BYTES:
                code.add_module(conversions.module_text(self.target.isa))
            image = code.image()
        cache.save()
        assert RUN in image.symbols
        target = dict(self.driver.target())
        used = {f for f in self.target.isa.features if f in target["features"].split(",")}
        target["features"] = ",".join(sorted(used))
        blobs, halves = halve(code.blobs) if self.config.precision == "fp16" else (code.blobs, ())
        section = Section(
            target=tuple(sorted(target.items())),
            program=program,
            image=image,
            blobs=tuple(blobs),
            halves=halves,
            operations=code.operations,
        )
        return Compiled(section, fallbacks, time.note())

    def _pool(self, graph: Graph) -> AbstractContextManager[CompilePool | None]:
        """Return processes that compile, where there is enough for them to do."""
        if sum(1 for _ in graph.nodes()) < _POOL_NODES:
            return nullcontext()
        return CompilePool(self.target.isa, min(4, self.target.threads))

    def _program(self, graph: Graph, code: Code, fallbacks: list[str]) -> Program:
        nodes = [n for n in graph.nodes() if not isinstance(n.op, Const)]
        # What decides a size must hand it to the host before the steps that need it.
        on_host = {
            v.node for v in graph.definers.values() if v.node and not isinstance(v.node.op, COUNTED)
        }
        self.report("tactics", 0, len(nodes), "")
        choices = {n: Choices(n, [], []) if n in on_host else self._choices(n) for n in nodes}
        self._narrow([c for c in choices.values() if not _is_view(c.node)])
        if self.config.optimization_level > 0:
            self.measurer.measure([c for c in choices.values() if _worth_timing(c)])
        costs = dataclasses.replace(_COSTS, direct=self.config.direct)
        chosen, forms = choose_layouts(
            graph, choices, self.target.forms, _is_view, costs, self.target.env
        )
        views = plan_concats(graph, forms, chosen, may_copy=True)
        assembler = CpuAssembler(code, self.target, graph, views, self.policy)
        for node in nodes:
            with where(f"at {node}"), where(f"from {node.loc}"):
                self._emit(assembler, node, choices[node], chosen.get(node), fallbacks)
        fallbacks += assembler.fallbacks
        return assembler.finish()

    def _progress(self, stage: str) -> Callable[[int, int, str], None]:
        return lambda done, total, item: self.report(stage, done, total, item)

    def _choices(self, node: Node) -> Choices:
        if self.reference or isinstance(node.op, If | Loop):
            return Choices(node, [], [])
        choices = enumerate_candidates(node, self.target)
        if isinstance(node.op, Concat):
            # Parts that are written in place leave nothing to do.
            choices.microseconds = [
                us * (1.0 - likely_share(node, c.writes[0]))
                for c, us in zip(choices.candidates, choices.microseconds, strict=True)
            ]
        return choices

    def _narrow(self, offered: Sequence[Choices]) -> None:
        """Leave the candidates that the options of the build and its selector allow."""
        if self.policy.allows_all:
            return
        for choices in offered:
            node = choices.node
            problem = problem_key(node, self.target)

            def workspace(c: Candidate, node: Node = node) -> Dim:
                return c.draft(Placement(*dense_layouts(node, c), STEM)).workspace_bytes

            def known(c: Candidate, problem: str = problem) -> float | None:
                return self.measurer.cache.get(problem, describe(c))

            self.policy.narrow(choices, workspace, known)

    def _emit(
        self,
        assembler: CpuAssembler,
        node: Node,
        choices: Choices,
        candidate: Candidate | None,
        fallbacks: list[str],
    ) -> None:
        if isinstance(node.op, If | Loop):
            self._control(assembler, choices, fallbacks)
        elif node in assembler.views.concats:
            assembler.join(node)
        elif _is_view(node) and (offset := view_offset(node)) is not None:
            assembler.view(node, offset)
        elif candidate is None:
            assembler.host(choices)
        elif candidate.tactic == STRIDED_VIEW:
            assembler.relay(node, candidate)
        else:
            assembler.run(choices, candidate)

    def _control(self, assembler: CpuAssembler, choices: Choices, fallbacks: list[str]) -> None:
        op = choices.node.op
        graphs = [op.then_branch, op.else_branch] if isinstance(op, If) else [op.body]  # type: ignore[attr-defined]
        programs = tuple(self._program(g, assembler.code, fallbacks) for g in graphs)
        spec = str(op.carried) if isinstance(op, Loop) else ""
        assembler.host(choices, programs, spec)


class CpuAssembler(Assembler):
    """Builds one program of native calls."""

    code: Code

    def __init__(
        self, code: Code, target: CpuTarget, graph: Graph, views: ViewPlan, policy: Policy
    ) -> None:
        super().__init__(code, graph, views, policy)
        self.target = target

    def copy_draft(self, type: TensorType, before: Layout, after: Layout) -> Draft:
        """Return the step that copies a tensor from one layout into another."""
        return self.code.add(reorder_draft(type, Placement((before,), (after,), STEM), self.target))


def _worth_kernels(blobs: Sequence[Weight]) -> bool:
    """Whether a refit has so many filters to transform that the plan should hold code for it."""
    made = [w for w in blobs if w.recipe is not None and w.recipe.function == "winograd"]
    return _bytes(made) >= _WORTH_KERNELS_BYTES


def _bytes(blobs: Iterable[Weight]) -> int:
    return sum(w.nbytes for w in blobs)


def _worth_timing(choices: Choices) -> bool:
    """Whether tactics compete; the forms of one generated kernel differ only by their reorders."""
    tactics = [c.tactic for c in choices.candidates if c.tactic != STRIDED_VIEW]
    return len(tactics) > 1 and set(tactics) != {"codegen"}


def _is_view(node: Node) -> bool:
    return view_offset(node) is not None
