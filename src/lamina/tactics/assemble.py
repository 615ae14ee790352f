"""Turns nodes with chosen candidates into the tensors and steps of a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lamina.codegen.layout import Layout
from lamina.errors import BuildError
from lamina.ir.attributes import attribute_symbols
from lamina.ir.blocks import blocked
from lamina.ir.dims import Dim
from lamina.ir.graph import Graph, Node, Value, emit_node
from lamina.ir.text import print_graph
from lamina.ir.traced import dense
from lamina.ir.types import DType, TensorType, ValueType
from lamina.ir.weight import Weight
from lamina.plan.plan import (
    COUNT,
    WORKSPACE,
    Measurement,
    Place,
    Port,
    Program,
    Step,
    StepKind,
    Tensor,
)
from lamina.tactics.candidate import (
    Blob,
    Candidate,
    Count,
    Draft,
    Packed,
    Read,
    Role,
    Scratch,
    constant,
)
from lamina.tactics.choices import Choices, describe
from lamina.tactics.form import Form, layout, same_bytes, size_bytes
from lamina.tactics.operations import operations
from lamina.tactics.policy import Policy
from lamina.tactics.views import ViewPlan


class Code(Protocol):
    """What collects the kernels and constants of a section.

    ``operations`` are those of the steps of the program that was finished last.
    """

    operations: tuple[Dim, ...]

    def add_blob(self, weight: Weight) -> int:
        """Keep a constant and return its number."""

    def draft(
        self, candidate: Candidate, operands: tuple[Layout, ...], results: tuple[Layout, ...]
    ) -> Draft:
        """Return the step of a candidate whose operands and results lie so."""


class Assembler(ABC):
    """Builds one program; nested programs share ``code``."""

    def __init__(self, code: Code, graph: Graph, views: ViewPlan, policy: Policy) -> None:
        self.code, self.graph, self.views, self.policy = code, graph, views, policy
        self.tensors: list[Tensor] = []
        self.layouts: list[Layout | None] = []
        self.steps: list[Step] = []
        self.operations: dict[int, Dim] = {}
        self.numbers: dict[tuple[Value, str], int] = {}
        self.fallbacks: list[str] = []
        self.known = {s for v in graph.inputs for s in attribute_symbols(v.type)}
        for i, v in enumerate(graph.inputs):
            self.numbers[v, Form.PLAIN] = self.add(v, Form.PLAIN, Place.INPUT, i)

    def add(self, v: Value, form: str, place: Place, index: int = 0, offset: object = 0) -> int:
        """Add a tensor that holds ``v`` densely and return its number."""
        type: ValueType = v.type
        tensor = isinstance(type, TensorType) and type.dtype is not DType.STR
        self.tensors.append(
            Tensor(
                name=v.name,
                type=type,
                layout=form,
                place=place,
                index=index,
                offset=offset,  # type: ignore[arg-type]
                size_bytes=size_bytes(type, form) if tensor else 0,  # type: ignore[arg-type]
            )
        )
        self.layouts.append(layout(type, form) if isinstance(type, TensorType) else None)
        return len(self.tensors) - 1

    def read(self, v: Value, form: str) -> int:
        """Return the tensor that holds ``v`` in ``form``, reordering once where needed."""
        key = (v, str(form))
        if key in self.numbers:
            return self.numbers[key]
        if (weight := constant(v)) is not None:
            number = self.add(v, form, Place.CONSTANT, self._constant(weight.array, v, form))
            self.numbers[key] = number
            return number
        have = next(f for w, f in self.numbers if w is v)
        base = self.numbers[v, have]
        if same_bytes(v.tensor, have, form) and self.is_dense(base):
            number = self.add(v, form, Place.VIEW, base)
        else:
            number = self.add(v, form, Place.ARENA)
            self._reorder(v, base, number)
        self.numbers[key] = number
        return number

    def is_dense(self, number: int) -> bool:
        """Whether a tensor fills its memory without gaps."""
        t = self.tensors[number]
        return isinstance(t.type, TensorType) and self.layouts[number] == layout(t.type, t.layout)

    def _constant(self, array: np.ndarray, v: Value, form: str) -> int:
        if form == Form.CHANNELS_LAST:
            array = dense(np.moveaxis(array, 1, -1))
        elif form == Form.BLOCKED:
            others = tuple(range(3, array.ndim + 1))
            array = blocked(array, ((), (16,), *[()] * (array.ndim - 2)), (0, 1, *others, 2))
        name = v.node.op.weight.name if v.node else ""  # type: ignore[attr-defined]
        return self.code.add_blob(Weight(array, name))

    def _reorder(self, v: Value, source: int, target: int) -> None:
        before, after = self.layouts[source], self.layouts[target]
        assert before is not None and after is not None
        draft = self.copy_draft(v.tensor, before, after)
        self.steps.append(
            Step(
                kind=draft.kind,
                name="reorder",
                tactic=f"{self.tensors[source].layout}>{self.tensors[target].layout}",
                loc=str(v.loc),
                reads=(source,),
                writes=(target,),
                arguments=(source, target),
                names=draft.names,
                symbols=draft.symbols,
                parameters=draft.parameters,
                threads=draft.threads,
                spec=draft.spec,
            )
        )

    @abstractmethod
    def copy_draft(self, type: TensorType, before: Layout, after: Layout) -> Draft:
        """Return the step that copies a tensor from one layout into another."""

    def write(self, v: Value, form: str) -> int:
        """Return the tensor into which a step writes ``v``."""
        parent = self.views.parent(v)
        if parent is not None and (v, str(form)) not in self.numbers:
            return self._write_into(v, form, parent)
        host = not isinstance(v.type, TensorType) or v.type.dtype is DType.STR
        number = self.add(v, form, Place.HOST if host else Place.ARENA)
        self.numbers[v, str(form)] = number
        return number

    def _write_into(self, v: Value, form: str, parent: tuple[Value, int]) -> int:
        number = self._part(v, form, *parent)
        self.numbers[v, str(form)] = number
        return number

    def _part(self, v: Value, form: str, whole: Value, first: int) -> int:
        """Add a tensor for ``v`` that lies in ``whole`` from index ``first`` on."""
        key = (whole, str(form))
        base = self.numbers[key] if key in self.numbers else self.write(whole, form)
        inner = self.layouts[base]
        assert inner is not None
        offset = self.views.offset_bytes(whole, form, first, inner)
        number = self.add(v, form, Place.VIEW, base, offset)
        self.layouts[number] = Layout(inner.strides, 0, inner.block_axis, inner.block)
        return number

    def join(self, node: Node) -> None:
        """Copy those parts of a concatenation that were not written in place."""
        for v, first in self.views.copied.get(node, ()):
            form = next(f for w, f in self.numbers if w is node.output)
            source = self.read(v, form)
            self._reorder(v, source, self._part(v, form, node.output, first))

    def run(self, choices: Choices, candidate: Candidate) -> None:
        """Add the step of a chosen candidate."""
        node = choices.node
        reads = [
            self.read(v, form) if form is not None else -1
            for v, form in zip(node.inputs, candidate.reads, strict=True)
        ]
        if candidate.overwrites is not None:
            self._take_over(node, reads[candidate.overwrites], candidate.writes[0])
            writes = [self.numbers[node.output, str(candidate.writes[0])]]
        else:
            writes = [self.write(v, f) for v, f in zip(node.outputs, candidate.writes, strict=True)]
        dense = [
            self.layouts[n] if n >= 0 else layout(v.tensor, Form.PLAIN)
            for n, v in zip(reads, node.inputs, strict=True)
        ]
        results = [self.layouts[n] for n in writes]
        draft = self.code.draft(candidate, tuple(dense), tuple(results))  # type: ignore[arg-type]
        microseconds = choices.microseconds[choices.candidates.index(candidate)]
        self.policy.choose(node, candidate, draft.workspace_bytes, microseconds)
        arguments = [self._argument(r, node, reads, writes, candidate) for r in draft.arguments]
        self.operations[len(self.steps)] = operations(node)
        self.steps.append(
            _step(choices, candidate, draft, [a for a in arguments if a >= 0], writes, arguments)
        )

    def _take_over(self, node: Node, operand: int, form: str) -> None:
        number = self.add(node.output, form, Place.VIEW, operand)
        self.layouts[number] = self.layouts[operand]
        self.numbers[node.output, str(form)] = number

    def _argument(
        self, role: Role, node: Node, reads: Sequence[int], writes: Sequence[int], c: Candidate
    ) -> int:
        if isinstance(role, Scratch | Count):
            return WORKSPACE if isinstance(role, Scratch) else COUNT
        if isinstance(role, Blob | Packed):
            weight = role.weight if isinstance(role, Blob) else role.make()
            array = weight.array
            type = TensorType(DType.of(array.dtype), array.shape)
            self.tensors.append(
                Tensor(
                    name="packed",
                    type=type,
                    layout="packed",
                    place=Place.CONSTANT,
                    index=self.code.add_blob(weight),
                    size_bytes=array.nbytes,
                )
            )
            self.layouts.append(None)
            return len(self.tensors) - 1
        if isinstance(role, Read):
            n = reads[role.index]
            return n if n >= 0 else self.read(node.inputs[role.index], Form.PLAIN)
        return writes[role.index]

    def view(self, node: Node, offset: object) -> None:
        """Let the result of a node be a view of its first operand."""
        base = self.read(node.inputs[0], Form.PLAIN)
        number = self.add(node.output, Form.PLAIN, Place.VIEW, base, offset)
        self.numbers[node.output, Form.PLAIN] = number

    def strided_view(self, node: Node, form: str, offset: object) -> None:
        """Let the result of a node lie inside its first operand, with the operand's strides."""
        base = self.read(node.inputs[0], form)
        number = self.add(node.output, form, Place.VIEW, base, offset)
        self.layouts[number] = self.layouts[base]
        self.numbers[node.output, str(form)] = number

    def relay(self, node: Node, candidate: Candidate) -> None:
        """Let the result of a node be the bytes of its operand, in another form."""
        read, write = candidate.reads[0], candidate.writes[0]
        assert read is not None
        x = node.inputs[0]
        base = self.read(x, read)
        if not self.is_dense(base):
            gapped, base = base, self.add(x, read, Place.ARENA)
            self._reorder(x, gapped, base)
        self.numbers[node.output, str(write)] = self.add(node.output, write, Place.VIEW, base)

    def host(self, choices: Choices, programs: tuple[Program, ...] = (), spec: str = "") -> None:
        """Add a step that runs the operator's NumPy meaning, or control flow over ``programs``."""
        node = choices.node
        reads = tuple(self.read(v, Form.PLAIN) for v in node.inputs)
        writes = tuple(self.write(v, Form.PLAIN) for v in node.outputs)
        kind = StepKind.HOST
        if programs:
            kind = StepKind.IF if len(programs) == 2 else StepKind.LOOP
        else:
            why = "; ".join(f"{t}: {r}" for t, r in choices.declined) or "no kernel"
            self.fallbacks.append(f"{node.op.name} from {node.loc} runs on the host ({why})")
        self.steps.append(
            Step(
                kind=kind,
                name=node.op.name,
                tactic="host",
                loc=str(node.loc),
                reads=reads,
                writes=writes,
                spec=spec or (host_spec(node) if not programs else ""),
                programs=programs,
                declined=tuple(choices.declined),
            )
        )

    def finish(self) -> Program:
        """Place the results and return the program."""
        outputs = []
        used: set[int] = set()
        for i, (v, name) in enumerate(
            zip(self.graph.outputs, self.graph.output_names, strict=True)
        ):
            number = self._result(self.read(v, Form.PLAIN), v, i, used)
            outputs.append(Port(name=name, type=v.type, tensor=number))
        inputs = tuple(
            Port(name=v.name, type=v.type, tensor=i) for i, v in enumerate(self.graph.inputs)
        )
        counts = tuple(self.operations.get(i, 0) for i in range(len(self.steps)))
        self.code.operations = counts if any(counts) else ()
        return Program(
            inputs=inputs,
            outputs=tuple(outputs),
            tensors=tuple(self.tensors),
            steps=tuple(self.steps),
        )

    def _result(self, number: int, v: Value, index: int, used: set[int]) -> int:
        """Let the caller's array be the memory of a result where that is possible."""
        base = number
        while self.tensors[base].place is Place.VIEW and self.tensors[base].offset == 0:
            base = self.tensors[base].index
        t, wanted = self.tensors[base], self.tensors[number].size_bytes
        symbols = set(attribute_symbols(v.type))
        if t.place is Place.ARENA and t.size_bytes == wanted and symbols <= self.known:
            if base not in used:
                used.add(base)
                self.tensors[base] = Tensor(
                    name=t.name,
                    type=t.type,
                    layout=t.layout,
                    place=Place.OUTPUT,
                    index=index,
                    size_bytes=t.size_bytes,
                )
                return base
        return number


def host_spec(node: Node) -> str:
    """Return the text of a graph with this node alone."""
    graph = Graph()
    operands = [graph.input(f"i{k}", v.type) for k, v in enumerate(node.inputs)]
    copy = emit_node(node.op, operands, loc=node.loc)
    for k, v in enumerate(copy.outputs):
        graph.output(v, f"o{k}")
    text = print_graph(graph)
    if "digest=" in text:
        raise BuildError(f"{node.op.name} from {node.loc} holds a large constant inside")
    return text


def _step(
    choices: Choices,
    candidate: Candidate,
    draft: Draft,
    reads: Sequence[int],
    writes: Sequence[int],
    arguments: Sequence[int],
) -> Step:
    node = choices.node
    times = [
        Measurement(tactic=describe(c), microseconds=round(us, 3))
        for c, us in zip(choices.candidates, choices.microseconds, strict=True)
    ]
    chosen = choices.candidates.index(candidate)
    return Step(
        kind=draft.kind,
        name=node.op.name,
        tactic=candidate.tactic,
        loc=str(node.loc),
        reads=tuple(n for n in reads if n not in writes),
        writes=tuple(writes),
        arguments=tuple(arguments),
        names=draft.names,
        symbols=draft.symbols,
        parameters=draft.parameters,
        threads=draft.threads,
        workspace_bytes=draft.workspace_bytes,
        spec=draft.spec,
        defines=draft.defines,
        microseconds=round(choices.microseconds[chosen], 3),
        tried=tuple(sorted(times, key=lambda m: m.microseconds)),
        declined=tuple(choices.declined),
    )
