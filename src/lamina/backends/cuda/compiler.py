"""Compiles an optimized graph for a CUDA device: candidates, times, layouts, kernels, steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

from lamina.backends.compiled import Compiled, Report
from lamina.backends.cuda import code as codes
from lamina.backends.cuda.bindings import open_device
from lamina.backends.cuda.compile import Compiler, MachineCode
from lamina.backends.cuda.device import Device
from lamina.backends.cuda.lowering import lower
from lamina.backends.cuda.measure import Measurer, problem_key
from lamina.backends.cuda.primitive import Library
from lamina.backends.cuda.selection import enumerate_candidates, without
from lamina.backends.cuda.tactics import LAST_RESORTS, TACTICS
from lamina.backends.cuda.tactics.reorder import reorder_draft
from lamina.backends.cuda.tactics.slices import ChannelView, channel_offset, no_launches
from lamina.backends.cuda.target import TARGETS, CudaTarget
from lamina.codegen.layout import Layout
from lamina.config import BuildConfig, default_threads
from lamina.errors import BuildError, ConfigError, DeviceError, where
from lamina.ir.dims import Dim, divides
from lamina.ir.graph import Graph, Node
from lamina.ir.types import TensorType
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
from lamina.plan.plan import Program, Section, Step, StepKind
from lamina.tactics.assemble import Assembler, host_spec
from lamina.tactics.cache import TimingCache
from lamina.tactics.candidate import COUNTED, Candidate, Draft, Placement
from lamina.tactics.choices import Choices, dense_layouts, describe
from lamina.tactics.form import Form
from lamina.tactics.layouts import LayoutCosts, choose_layouts, nested_graphs, spatial_ranks
from lamina.tactics.policy import Policy
from lamina.tactics.views import STRIDED_VIEW, plan_concats, view_offset

_ALIGNMENT = 16
"""Bytes; every tensor begins at a multiple, so that kernels may read 16 bytes at once."""

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
        self.kernels: Callable[[int, int], Compiler] = Compiler
        """Makes what compiles kernels, for a compute capability, in a number of processes."""

    @property
    def machine(self) -> str:
        """Return what the timing cache calls the device."""
        family = f"cuda sm_{self.target.arch}"
        return family if self.device is None else f"{family} {self.device.model}"

    def compile(self, graph: Graph, cache: TimingCache) -> Compiled:
        """Return the section that runs ``graph`` on devices of the target."""
        self.target = dataclasses.replace(self.target, spatial_ranks=spatial_ranks(graph, _SPATIAL))
        lower(graph, self.target, self.config.without)
        with self.kernels(self.target.arch, default_threads()) as self.compiler:
            self.cache = cache
            if self.device is None:
                # Any device of the family is a better guide than the cost model.
                relatives = sorted(m for m in cache.times if m.startswith(self.machine))
                cache.machine = next(iter(relatives), cache.machine)
            choices = self._all_choices(graph)
            while True:
                self.policy.begin()
                code = codes.Code(lambda t, p: reorder_draft(t, p, self.target))
                fallbacks: list[str] = []
                program = self._program(graph, choices, code, fallbacks)
                compiled, failed = self._compiled(code)
                if not failed and not self.policy.again:
                    break
                choices = {n: without(c, failed) for n, c in choices.items()}
                for offered in choices.values():
                    self.policy.drop_refused(offered)
        self.policy.finish()
        cache.save()
        section = Section(
            target=(("arch", f"sm_{self.target.arch}"), ("device", "cuda")),
            program=codes.complete(program, compiled),
            image=codes.image(compiled),
            blobs=tuple(code.blobs),
        )
        return Compiled(section, fallbacks)

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
            level = self.config.optimization_level
            choices[n] = _view_choices(n, self.target) or enumerate_candidates(
                n, self.target, TACTICS, level, LAST_RESORTS
            )
        self._narrow([c for n, c in choices.items() if not _is_view(n)])
        if self.config.optimization_level > 0:
            measurer = Measurer(
                self.device,
                self.target,
                self.cache,
                self.compiler,
                self.report,
                average=self.config.timing_average,
                least=self.config.timing_runs,
            )
            measurer.measure(list(choices.values()))
        return choices

    def _narrow(self, offered: Sequence[Choices]) -> None:
        """Leave the candidates that the options of the build and its selector allow."""
        for choices in offered:
            node = choices.node
            problem = problem_key(node, self.target)

            def workspace(c: Candidate, node: Node = node) -> Dim:
                return c.draft(Placement(*dense_layouts(node, c), "")).workspace_bytes

            def known(c: Candidate, problem: str = problem) -> float | None:
                return self.cache.get(problem, describe(c))

            self.policy.narrow(choices, workspace, known)

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
        )
        chosen, forms = choose_layouts(
            graph, own, self.target.forms, _is_view, costs, self.target.env
        )
        views = plan_concats(graph, forms, chosen, _ALIGNMENT)
        assembler = CudaAssembler(code, graph, views, self.policy)
        for node, offered in own.items():
            with where(f"at {node}"), where(f"from {node.loc}"):
                self._emit(assembler, node, offered, chosen.get(node), choices, fallbacks)
        fallbacks += assembler.fallbacks
        return assembler.finish()

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
        elif candidate.writes[0] == Form.PLAIN:
            assembler.view(node, view_offset(node))
        else:
            assembler.strided_view(node, candidate.writes[0], channel_offset(node))

    def _compiled(self, code: codes.Code) -> tuple[dict[str, MachineCode], dict[int, str]]:
        """Compile what the program launches; returns kernels, and candidates that failed."""
        self.report("compile", 0, len(code.requests), "")
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


class CudaAssembler(Assembler):
    """Builds one program of launches."""

    code: codes.Code

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


def _view_choices(node: Node, target: CudaTarget) -> Choices | None:
    """Return the ways to let a row-major view be one, in whatever form; None for other nodes."""
    if not _is_view(node):
        return None
    plain = (Form.PLAIN,)
    candidates = [Candidate(STRIDED_VIEW, plain * len(node.inputs), plain, 0.0, no_launches)]
    channels = ChannelView().candidates(node, target)
    if isinstance(channels, list):
        candidates += channels
    return Choices(node, candidates, [0.0] * len(candidates))


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
