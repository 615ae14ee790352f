"""Times a whole program on the device, as one graph in which steps may be other candidates'.

Memory lies as it does in a run, and a launch waits for others or starts early behind one as it does
there, so kernels overlap, share the device with those of other branches and find in the cache what
earlier ones left.  What kernels work on is random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lamina.backends.cuda.arena import ArenaPlan, is_known
from lamina.backends.cuda.bench import Bench, TimedGraph
from lamina.backends.cuda.code import Drafted
from lamina.backends.cuda.compile import MachineCode
from lamina.backends.cuda.device import Handle, KernelLaunch
from lamina.backends.cuda.graph import add_node
from lamina.backends.cuda.hazards import OWN, Range, dependencies
from lamina.backends.cuda.primitive import LibraryCall
from lamina.backends.cuda.request import KernelRequest
from lamina.backends.cuda.residency import NATIVE, base_of, native_tensors, on_device
from lamina.backends.cuda.timed_step import Needs, TimedStep, Trial, aligned
from lamina.ir.dims import evaluate
from lamina.ir.types import DType, TensorType, ValueType
from lamina.plan.plan import Place, Program
from lamina.tactics.candidate import Role, Scratch

Launches = list[KernelLaunch | LibraryCall]


@dataclass(frozen=True)
class Rehearsed:
    """A native step: what it is in the program, and by name what it may be, beginning with that."""

    drafted: Drafted
    trials: dict[str, Trial]


def can_rehearse(program: Program, env: Mapping[str, int]) -> bool:
    """Whether a program may run on random contents: all of it on the device, its sizes known.

    Integers that are computed from other numbers may be indices: they would be anything.
    """
    for step in program.steps:
        tensors = [program.tensors[t] for t in native_tensors(step)]
        sizes = [size for t in tensors for size in (t.size_bytes, t.offset)]
        known = all(is_known(size, env) for size in (*sizes, step.workspace_bytes))
        if step.kind not in NATIVE or not known:
            return False
        results = [program.tensors[t].type for t in step.writes]
        operands = [program.tensors[t].type for t in step.reads]
        if any(map(_may_index, results)) and not all(map(_may_index, operands)):
            return False
    return True


def _may_index(type: ValueType) -> bool:
    return isinstance(type, TensorType) and type.dtype in (DType.I32, DType.I64)


class InGraph:
    """The steps of a program that ``can_rehearse``, with memory for all of them, by number."""

    def __init__(
        self,
        bench: Bench,
        program: Program,
        steps: Mapping[int, Rehearsed],
        code: Mapping[KernelRequest, MachineCode],
    ) -> None:
        self._bench, self._program, self._code = bench, program, code
        self._plan = ArenaPlan(program, on_device(program), bench.env, branches=True)
        self.steps = dict(steps)
        self._reserve()
        self._launches = {i: self._placed(i, step) for i, step in self.steps.items()}
        self._waits = dependencies([self._touched(i) for i in self.steps])

    def _reserve(self) -> None:
        """Make pools large enough: weights of every step, and activations."""
        total: dict[str, int] = {"scratch": aligned(1)}
        ports = {
            base
            for i in self.steps
            for t in native_tensors(self._program.steps[i])
            if self._place(base := base_of(self._program, t)) in (Place.INPUT, Place.OUTPUT)
        }
        for port in ports:
            kind, size = self._port(port)
            total[kind] = total.get(kind, 0) + aligned(size)
        for i, step in self.steps.items():
            most: dict[str, int] = {}
            for trial in step.trials.values():
                needs = Needs(trial, self._code, self._bench.env, self._arguments(i, step, trial))
                for kind, size in needs.total(1).items():
                    most[kind] = max(size, most.get(kind, 0))
            for kind, size in most.items():
                total[kind] = total.get(kind, 0) + size
        total["scratch"] += aligned(self._plan.size_bytes)
        self._bench.used = {}
        self._bench.reserve(total)
        self._arena = self._bench.memory("scratch", self._plan.size_bytes)
        self._ports = {port: self._bench.memory(*self._port(port)) for port in sorted(ports)}

    def _place(self, tensor: int) -> Place:
        return self._program.tensors[tensor].place

    def _port(self, tensor: int) -> tuple[str, int]:
        """Return the kind of memory and the bytes of an input or a result."""
        t = self._program.tensors[tensor]
        assert isinstance(t.type, TensorType)
        kind = t.type.dtype.value if t.place is Place.INPUT else "scratch"
        return kind, evaluate(t.size_bytes, self._bench.env)

    def _tensors(self, number: int, step: Rehearsed) -> dict[Role, int]:
        """Return the tensors of operands and results, but for constants."""
        arguments = zip(step.drafted.arguments, self._program.steps[number].arguments, strict=True)
        return {
            role: tensor
            for role, tensor in arguments
            if tensor >= 0 and self._place(base_of(self._program, tensor)) is not Place.CONSTANT
        }

    def _arguments(self, number: int, step: Rehearsed, trial: Trial) -> list[object]:
        """Return the arguments of a trial that lie where they are in a run.

        So does a workspace, unless it is larger than that of the step.
        """
        env, planned = self._bench.env, self._program.steps[number].workspace_bytes
        found: list[object] = [*self._tensors(number, step)]
        if 0 < evaluate(trial.draft.workspace_bytes, env) <= evaluate(planned, env):
            found.append(Scratch())
        return found

    def _address(self, tensor: int) -> int:
        t = self._program.tensors[tensor]
        if t.place is Place.VIEW:
            return self._address(t.index) + evaluate(t.offset, self._bench.env)
        if t.place is Place.ARENA:
            return self._arena + self._plan.offsets[tensor]
        return self._ports[tensor]

    def _placed(self, number: int, step: Rehearsed) -> dict[str, Launches]:
        """Return the launches of each trial; what each has for itself is in the same memory."""
        bench, tensors = self._bench, self._tensors(number, step)
        before, after = dict(bench.used), dict(bench.used)
        found = {}
        for name, trial in step.trials.items():
            bench.used = dict(before)
            places = {
                role: self._address(tensors[role]) if role in tensors else self._workspace(number)
                for role in self._arguments(number, step, trial)
            }
            found[name] = TimedStep(bench, trial, self._code, places, copies=1).launches(0)
            after |= {k: max(n, after.get(k, 0)) for k, n in bench.used.items()}
        bench.used = after
        return found

    def _workspace(self, number: int) -> int:
        return self._arena + self._plan.offsets[-1 - number]

    def _touched(self, number: int) -> list[Range]:
        step, env = self._program.steps[number], self._bench.env
        ranges = []
        for tensor in set(self._tensors(number, self.steps[number]).values()):
            begin = self._address(tensor)
            end = begin + evaluate(self._program.tensors[tensor].size_bytes, env)
            ranges.append(Range(OWN, begin, end, tensor in step.writes))
        if size := evaluate(step.workspace_bytes, env):
            begin = self._workspace(number)
            ranges.append(Range(OWN, begin, begin + size, writes=True))
        return ranges

    def timed(self, picked: Mapping[int, str]) -> TimedGraph:
        """Return the program as a graph, with these trials where they are not the first ones.

        Steps are numbered as in the program.
        """
        trials = [
            next(iter(of.values())) if i not in picked else of[picked[i]]
            for i, of in self._launches.items()
        ]
        return TimedGraph(self._bench, lambda graph, first: self._add(graph, first, trials))

    def _add(
        self, graph: Handle, first: list[Handle], trials: Sequence[Launches]
    ) -> Sequence[Handle]:
        nodes: list[Handle] = []
        launched: Launches = []
        ends: list[list[int]] = []  # the launches whose end is the end of each step
        last: set[int] = set()
        for launches, waits in zip(trials, self._waits, strict=True):
            after = sorted({n for w in waits for n in ends[w]})
            for launch in launches:
                early = len(after) == 1 and isinstance(launched[after[0]], KernelLaunch)
                behind = [nodes[n] for n in after] or first
                nodes.append(add_node(self._bench.device, graph, launch, behind, early=early))
                last -= set(after)
                last.add(len(launched))
                launched.append(launch)
                after = [len(launched) - 1]
            ends.append(after)
        return [nodes[n] for n in sorted(last)] or first
