"""Compiles an optimized graph for a CUDA device: candidates, times, layouts, kernels, steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

from lamina.backends.compiled import Compiled, Report
from lamina.backends.cuda import code as codes
from lamina.backends.cuda.bindings import open_device
from lamina.backends.cuda.compile import Compiler, MachineCode, toolchain
from lamina.backends.cuda.device import Device
from lamina.backends.cuda.directions import Directions
from lamina.backends.cuda.lowering import lower
from lamina.backends.cuda.measure import Measurer
from lamina.backends.cuda.pricing import Pricing
from lamina.backends.cuda.primitive import Library
from lamina.backends.cuda.problems import has_gaps, problem_key
from lamina.backends.cuda.refinement import Refinement
from lamina.backends.cuda.selection import enumerate_candidates, without
from lamina.backends.cuda.tactics import LAST_RESORTS, TACTICS
from lamina.backends.cuda.tactics.packing import packing_kernels
from lamina.backends.cuda.tactics.reorder import reorder_draft
from lamina.backends.cuda.tactics.slices import ChannelView, channel_offset
from lamina.backends.cuda.target import TARGETS, CudaTarget
from lamina.codegen.layout import Layout
from lamina.config import BuildConfig, default_threads
from lamina.errors import BuildError, ConfigError, DeviceError, where
from lamina.ir.dims import Dim, divides
from lamina.ir.graph import Graph, Node, Value
from lamina.ir.types import TensorType
from lamina.ir.weight import Weight
from lamina.ops import (
    Const,
    Convolution,
    Deconvolution,
    If,
    Loop,
    MaxPoolIndices,
    PluginCall,
    Pool,
)
from lamina.ops.plugin import ON_DEVICE
from lamina.passes.fusion import FuseConvolutions, trials
from lamina.passes.on_host import is_hosted
from lamina.passes.row_norms import FuseRowNorms
from lamina.plan.plan import Program, Section, Step, StepKind
from lamina.tactics.assemble import Assembler, host_spec
from lamina.tactics.cache import TimingCache
from lamina.tactics.candidate import COUNTED, Candidate, Draft, Placement
from lamina.tactics.choices import Choices, dense_layouts, describe
from lamina.tactics.form import Form
from lamina.tactics.layouts import LayoutCosts, choose_layouts, nested_graphs, spatial_ranks
from lamina.tactics.placements import Placements
from lamina.tactics.policy import Policy
from lamina.tactics.relaid import no_step
from lamina.tactics.spent import Spent
from lamina.tactics.tuning_time import TuningTime
from lamina.tactics.views import STRIDED_VIEW, ViewPlan, plan_concats, view_offset

_ALIGNMENT = 16
"""Bytes; every tensor begins at a multiple, so that kernels may read 16 bytes at once."""

_EVERY = 5
"""The optimization level that leaves no configuration out."""

_MOST_WORKERS = 32
"""Processes that compile: to start one takes as long as four kernels."""

_WORTH_PACKING_BYTES = 1 << 20
"""Constants made of weights from which on a plan holds kernels that make them on the device."""

_LAUNCH_MICROSECONDS = 2.0
_HOST_MICROSECONDS = 200.0
_SPATIAL = (Convolution, Deconvolution, Pool, MaxPoolIndices)


class CudaCompiler:
    """Compiles graphs for one kind of device; without that device by the cost model alone."""

    def __init__(
        self,
        config: BuildConfig,
        target: CudaTarget,
        report: Report,
        device: Device | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.config, self.target, self.report = config, target, report
        self.policy = policy or Policy()
        self.device = device
        self.spent = Spent()
        self.kernels: Callable[[int, int], Compiler] = Compiler
        """Makes what compiles kernels, for a compute capability, in a number of processes."""

    @property
    def machine(self) -> str:
        """Return what the timing cache calls the device."""
        family = f"cuda sm_{self.target.arch}"
        return family if self.device is None else f"{family} {self.device.model}"

    @property
    def toolchain(self) -> str:
        """Return what the timing cache calls the versions of compiler and libraries."""
        return toolchain()

    def compile(self, graph: Graph, cache: TimingCache) -> Compiled:
        """Return the section that runs ``graph`` on devices of the target."""
        with self.spent.phase("steps"):
            return self._compile(graph, cache)

    def _compile(self, graph: Graph, cache: TimingCache) -> Compiled:
        self.target = dataclasses.replace(self.target, spatial_ranks=spatial_ranks(graph, _SPATIAL))
        lower(graph, self.target, self.config.without)
        with self.kernels(self.target.arch, min(default_threads(), _MOST_WORKERS)) as self.compiler:
            self.graph, self.cache, self.compiler.spent = graph, cache, self.spent
            if self.device is None:
                # Any device of the family is a better guide than the cost model.
                relatives = sorted(m for m in cache.times if m.startswith(self.machine))
                cache.machine = next(iter(relatives), cache.machine)
            time = TuningTime(self.config.time_budget)
            self.measurer = Measurer(
                self.device,
                self.target,
                cache,
                self.compiler,
                self.report,
                time,
                average=self.config.timing_average,
                least=self.config.timing_runs,
                spent=self.spent,
            )
            level = self.config.optimization_level
            self.refinement = Refinement(self.measurer, self.policy, level)
            with self.spent.phase("candidates"):
                self._fuse(graph)
                choices = self._all_choices(graph)
            while True:
                self.policy.begin()
                code = codes.Code(lambda t, p: reorder_draft(t, p, self.target))
                fallbacks: list[str] = []
                own = {n: c.copy() for n, c in choices.items()}  # times in place narrow them
                program = self._program(graph, own, code, fallbacks)
                compiled, failed = self._compiled(code)
                if not failed and not self.policy.again:
                    with self.spent.phase("trials in the program"):
                        if not self.refinement.refine(program, code.drafted):
                            break
                    continue
                for offered in choices.values():
                    self.measurer.failed(offered, failed)
                choices = {n: without(c, failed) for n, c in choices.items()}
                self._drop_refused(choices.values())
            compiled |= self._packing(code.blobs)
        self.policy.finish()
        cache.save()
        section = Section(
            target=codes.target(self.target.arch, compiled),
            program=codes.complete(program, compiled),
            image=codes.image(compiled),
            blobs=tuple(code.blobs),
            operations=code.operations,
        )
        return Compiled(section, fallbacks, time.note(), self.spent)

    def _fuse(self, graph: Graph) -> None:
        """Make one kernel of several operators where it is faster."""
        level = self.config.optimization_level
        if not level:
            return
        pricing, fuse = Pricing(self.measurer, TACTICS, level), FuseConvolutions()
        fuse.ask = pricing.prices
        parts = [] if fuse.name in self.config.without else nested_graphs(graph)
        if self.device is not None and self.policy.allows_all:
            nodes = [n for part in nested_graphs(graph) for n in part.nodes() if _has_kernel(n)]
            pricing.ahead(nodes, [t for part in parts for t in trials(part)], fuse.most)
        for part in parts:
            fuse(part)
        norms = FuseRowNorms(pricing.prices)
        if norms.name not in self.config.without:
            norms(graph)

    def _all_choices(self, graph: Graph) -> dict[Node, Choices]:
        """Return the candidates of every node, those of control flow's bodies included."""
        graphs = nested_graphs(graph)
        definers = {v.node for g in graphs for v in g.definers.values()}
        on_host = {n for n in definers if n is not None and not isinstance(n.op, COUNTED)}
        nodes = [n for g in graphs for n in g.nodes() if not isinstance(n.op, Const)]
        choices = {}
        for i, n in enumerate(nodes):
            self.report("tactics", i, len(nodes), str(n.loc))
            # What decides a size must hand it to the host before the steps that need it.
            if n in on_host or isinstance(n.op, If | Loop):
                choices[n] = Choices(n, [], [])
                continue
            if is_hosted(n):
                choices[n] = Choices(n, [], [], [("on_host", "the options of the build say so")])
                continue
            level = self.config.optimization_level
            choices[n] = _view_choices(n, self.target) or enumerate_candidates(
                n, self.target, TACTICS, level, LAST_RESORTS
            )
        self._narrow([c for n, c in choices.items() if not _is_view(n)])
        if self.config.optimization_level > 0:
            self.measurer.measure(list(choices.values()))
        return choices

    def _narrow(self, offered: Sequence[Choices]) -> None:
        """Leave the candidates that the options of the build and its selector allow."""
        if self.policy.allows_all:
            return
        for choices in offered:
            node = choices.node
            problem = problem_key(node, self.target)

            def known(c: Candidate, problem: str = problem) -> float | None:
                return self.cache.get(problem, describe(c))

            had = bool(choices.candidates)
            self.policy.narrow(choices, partial(_workspace, node), known)
            if had and not choices.candidates:
                self._widen(choices)

    def _drop_refused(self, offered: Iterable[Choices]) -> None:
        """Drop what wanted too much workspace; where nothing is left, look further."""
        for choices in offered:
            had = bool(choices.candidates)
            self.policy.drop_refused(choices)
            if had and not choices.candidates:
                self._widen(choices)

    def _widen(self, choices: Choices) -> None:
        """Offer every configuration whose workspace is small enough, then the last resorts."""
        node = choices.node
        for tactics in (TACTICS, LAST_RESORTS):
            found = enumerate_candidates(node, self.target, tactics, _EVERY)
            kept = [c for c in found.candidates if self.policy.fits(_workspace(node, c))]
            if kept:
                choices.candidates = kept
                choices.microseconds = [c.estimate_microseconds for c in kept]
                return

    def _program(
        self,
        graph: Graph,
        choices: Mapping[Node, Choices],
        code: codes.Code,
        fallbacks: list[str],
    ) -> Program:
        own = {n: choices[n] for n in graph.nodes() if not isinstance(n.op, Const)}
        costs = LayoutCosts(
            start=_LAUNCH_MICROSECONDS,
            bytes_per_microsecond=self.target.bytes_per_microsecond,
            host=_HOST_MICROSECONDS,
            direct=self.config.direct,
        )
        chosen, forms = choose_layouts(
            graph, own, self.target.forms, _is_view, costs, self.target.env
        )
        views = plan_concats(graph, forms, chosen, _ALIGNMENT)
        if self.config.optimization_level > 0:
            self._choose_in_place(own, chosen, forms, views)
            if graph is self.graph:
                settled = {n: c for n, c in own.items() if n not in views.concats}
                self.refinement.settle(settled, chosen)
        assembler = CudaAssembler(code, graph, views, self.policy, self.target)
        for node, offered in own.items():
            with where(f"at {node}"), where(f"from {node.loc}"):
                self._emit(assembler, node, offered, chosen.get(node), choices, fallbacks)
        fallbacks += assembler.fallbacks
        return assembler.finish()

    def _choose_in_place(
        self,
        choices: Mapping[Node, Choices],
        chosen: dict[Node, Candidate],
        forms: Mapping[Value, str],
        views: ViewPlan,
    ) -> None:
        """Choose again, among candidates of the same forms, where values lie inside larger ones."""
        placements = Placements(chosen, forms, views)
        placed = []
        for node, candidate in chosen.items():
            if node in views.concats or candidate.tactic == STRIDED_VIEW:
                continue
            at = placements.of(node, candidate)
            ends = zip((*node.inputs, *node.outputs), (*at.operands, *at.results), strict=True)
            if any(has_gaps(v, where) for v, where in ends):
                placed.append((choices[node], candidate, at))
        self.measurer.measure_in_place(placed)
        for offered, candidate, _ in placed:
            chosen[offered.node] = _fastest(offered, candidate)

    def _emit(
        self,
        assembler: CudaAssembler,
        node: Node,
        offered: Choices,
        candidate: Candidate | None,
        choices: Mapping[Node, Choices],
        fallbacks: list[str],
    ) -> None:
        op = node.op
        if isinstance(op, If | Loop):
            bodies = [op.then_branch, op.else_branch] if isinstance(op, If) else [op.body]
            programs = tuple(self._program(g, choices, assembler.code, fallbacks) for g in bodies)
            assembler.host(offered, programs, str(op.carried) if isinstance(op, Loop) else "")
        elif node in assembler.views.concats:
            return
        elif candidate is None:
            assembler.host(offered)
        elif candidate.tactic != STRIDED_VIEW:
            assembler.run(offered, candidate)
        elif candidate.reads != candidate.writes:
            assembler.relay(node, candidate)
        elif candidate.writes[0] == Form.PLAIN:
            assembler.view(node, view_offset(node))
        else:
            assembler.strided_view(node, candidate.writes[0], channel_offset(node))

    def _compiled(self, code: codes.Code) -> tuple[dict[str, MachineCode], dict[int, str]]:
        """Compile what the program launches; returns kernels, and candidates that failed."""
        self.report("compile", 0, len(code.requests), "")
        with self.spent.phase("waiting for kernels"):
            outcomes = self.compiler.compile(
                code.requests.values(), lambda done, total: self.report("compile", done, total, "")
            )
        compiled: dict[str, MachineCode] = {}
        failed = dict(code.failed)
        for digest, request in code.requests.items():
            outcome = outcomes[request]
            if isinstance(outcome, MachineCode):
                compiled[digest] = outcome
            elif digest not in code.users:
                raise BuildError(f"cannot copy between layouts: {outcome}")
            else:
                failed |= {id(c): outcome for c in code.users[digest]}
        return compiled, failed

    def _packing(self, blobs: Sequence[Weight]) -> dict[str, MachineCode]:
        """Return kernels with which refits make constants, where there is enough for them to do."""
        if sum(w.nbytes for w in blobs if w.recipe is not None) < _WORTH_PACKING_BYTES:
            return {}
        requests = packing_kernels(self.config.precision)
        outcomes = self.compiler.compile(requests.values())
        found = {name: outcomes[request] for name, request in requests.items()}
        return {name: code for name, code in found.items() if isinstance(code, MachineCode)}


class CudaAssembler(Assembler):
    """Builds one program of launches."""

    code: codes.Code

    def __init__(
        self, code: codes.Code, graph: Graph, views: ViewPlan, policy: Policy, target: CudaTarget
    ) -> None:
        super().__init__(code, graph, views, policy)
        self._directions = Directions(target)

    def run(self, choices: Choices, candidate: Candidate) -> None:
        """Add the step of a chosen candidate, which begins with what the cache still holds."""
        self.code.backwards = self._directions.backwards(choices.node)
        super().run(choices, candidate)
        self._directions.went(choices.node, backwards=self.code.backwards)

    def copy_draft(self, type: TensorType, before: Layout, after: Layout) -> Draft:
        """Return the step that copies a tensor from one layout into another."""
        return self.code.reorder(type, before, after)

    def host(self, choices: Choices, programs: tuple[Program, ...] = (), spec: str = "") -> None:
        """Add a step of the host, or of a plugin that works on the device by itself."""
        node = choices.node
        if not isinstance(node.op, PluginCall) or node.op.kind not in ON_DEVICE:
            super().host(choices, programs, spec)
            return
        self.steps.append(
            Step(
                kind=StepKind.CALLBACK,
                name=node.op.name,
                tactic="callback",
                loc=str(node.loc),
                reads=tuple(self.read(v, Form.PLAIN) for v in node.inputs),
                writes=tuple(self.write(v, Form.PLAIN) for v in node.outputs),
                spec=host_spec(node),
                declined=tuple(choices.declined),
            )
        )


def _has_kernel(n: Node) -> bool:
    """Whether kernels may be timed for a node before it is known what its neighbours get."""
    return not (isinstance(n.op, Const | If | Loop) or is_hosted(n) or _is_view(n))


def _workspace(node: Node, c: Candidate) -> Dim:
    """Return the scratch memory that a candidate's step asks for."""
    return c.draft(Placement(*dense_layouts(node, c), "")).workspace_bytes


def _view_choices(node: Node, target: CudaTarget) -> Choices | None:
    """Return the ways to let a row-major view be one, in whatever form; None for other nodes."""
    if not _is_view(node):
        return None
    plain = (Form.PLAIN,)
    candidates = [Candidate(STRIDED_VIEW, plain * len(node.inputs), plain, 0.0, no_step)]
    channels = ChannelView().candidates(node, target)
    if isinstance(channels, list):
        candidates += channels
    return Choices(node, candidates, [0.0] * len(candidates))


def _fastest(offered: Choices, like: Candidate) -> Candidate:
    """Return the fastest candidate with the forms of another, which stays where times tie."""
    rows = zip(offered.candidates, offered.microseconds, strict=True)
    alike = [(us, c) for c, us in rows if (c.reads, c.writes) == (like.reads, like.writes)]
    least = min(us for us, _ in alike)
    fastest = [c for us, c in alike if us == least]
    return like if like in fastest else fastest[0]


def _is_view(node: Node) -> bool:
    """Whether a result is a part of the operand that begins at an aligned address."""
    offset = view_offset(node)
    return offset is not None and divides(_ALIGNMENT, offset)


def cuda_compiler(
    config: BuildConfig,
    arch: int,
    env: Mapping[str, int],
    report: Report,
    policy: Policy | None = None,
) -> CudaCompiler:
    """Return a compiler for compute capability ``arch``; 0 stands for this machine's device.

    Without a device of that capability here, kernels are chosen by the timing cache and the cost
    model.  Raises DeviceError for 0 where there is no device.
    """
    device = _device(arch)
    arch = arch or (device.arch if device is not None else 0)
    known = max((a for a in TARGETS if a <= arch), default=0)
    if not known:
        raise ConfigError(
            f"target sm_{arch} is older than sm_{min(TARGETS)}",
            hint=f"the oldest GPUs that Triton compiles for are sm_{min(TARGETS)}",
        )
    target = dataclasses.replace(
        TARGETS[known],
        arch=arch,
        env=dict(env),
        tf32=config.precision == "tf32",
        shared_bytes=min(TARGETS[known].shared_bytes, config.shared_bytes or 1 << 30),
        library=None if device is None else _allowed(device.library, config.libraries),
    )
    return CudaCompiler(config, target, report, device, policy)


def _allowed(
    library: Callable[[str], Library], names: Collection[str] | None
) -> Callable[[str], Library]:
    """Return what opens a library, for those that kernels may come from (None: all)."""

    def open_allowed(name: str) -> Library:
        if names is not None and name not in names:
            raise DeviceError(f"the options of the build leave the library {name} out")
        return library(name)

    return open_allowed


def _device(arch: int) -> Device | None:
    """Return this machine's device if it is of the wanted capability (0: whatever it is)."""
    try:
        device = open_device(0)
    except DeviceError:
        if not arch:
            raise
        return None
    return device if arch in (0, device.arch) else None
