"""The graph: links, order, replacement, and what the verifier finds."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import numpy as np
import pytest

from lamina import ops
from lamina.errors import GraphError, TypeMismatch
from lamina.ir.dims import sym
from lamina.ir.graph import Graph, Value, emit, emit_node
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.types import DType, SequenceType, TensorType
from lamina.ir.verify import verify
from lamina.ir.weight import Weight
from lamina.ops.kinds import BinaryKind, UnaryKind
from tests.plan.plans import CONTROL, HOST
from tests.plan.plans import graph as parse

LOC = Loc("here")
TYPE = TensorType(DType.F32, (2, 3))
NEG, ABS = ops.Unary(kind=UnaryKind.NEG), ops.Unary(kind=UnaryKind.ABS)
ADD = ops.Binary(kind=BinaryKind.ADD)


def _chain(length: int) -> tuple[Graph, list[Value]]:
    graph = Graph()
    values = [graph.input("x", TYPE)]
    for _ in range(length):
        values.append(emit(NEG, [values[-1]], loc=LOC))
    graph.output(values[-1], "y")
    return graph, values


def test_nodes_come_after_what_they_need() -> None:
    graph = parse(CONTROL)
    seen = set(graph.inputs)
    for node in graph.nodes():
        assert seen.issuperset(node.inputs)
        seen.update(node.outputs)


def test_only_live_nodes_are_listed() -> None:
    graph, values = _chain(3)
    emit(ABS, [values[1]], loc=LOC)
    assert [n.op for n in graph.nodes()] == [NEG] * 3


def test_a_deep_graph_needs_no_recursion() -> None:
    graph, values = _chain(20 * sys.getrecursionlimit())
    assert sum(1 for _ in graph.nodes()) == len(values) - 1
    graph.replace(values[-1], values[0])
    assert list(graph.nodes()) == []
    assert graph.uses(values[0]) == 1


def test_many_paths_do_not_cost_exponential_time() -> None:
    graph = Graph()
    v = graph.input("x", TYPE)
    for _ in range(200):
        v = emit(ADD, [v, v], loc=LOC)
    graph.output(v, "y")
    assert sum(1 for _ in graph.nodes()) == 200


def test_uses_count_nodes_results_and_symbols() -> None:
    graph = Graph()
    x = graph.input("x", TYPE)
    assert graph.uses(x) == 0
    emit(ADD, [x, x], loc=LOC)
    assert graph.uses(x) == 1
    graph.output(x, "a")
    graph.output(x, "b")
    assert graph.uses(x) == 3
    host = parse(HOST)
    places = host.definers["k"]
    assert host.uses(places) == 2  # as the definition of a symbol, and as a result


def test_replacing_moves_every_use_and_erases_what_is_dead() -> None:
    graph, (x, a, b, c) = _chain(3)
    graph.output(a, "a")
    new = emit(ABS, [x], loc=LOC)
    graph.replace(b, new)
    assert [n.op for n in graph.nodes()] == [ABS, NEG, NEG]
    assert c.node is not None
    assert c.node.inputs == (new,)
    assert list(a.users) == []
    graph.replace(a, x)
    assert graph.outputs[1] is x
    assert list(graph.nodes())[0].op == ABS
    verify(graph)


def test_replacing_by_something_made_of_the_value_itself() -> None:
    graph, (_x, a, b) = _chain(2)
    wrapped = emit(ABS, [a], loc=LOC)
    graph.replace(a, wrapped)
    assert b.node is not None
    assert b.node.inputs == (wrapped,)
    assert wrapped.node is not None
    assert wrapped.node.inputs == (a,)
    verify(graph)


def test_replacing_what_decides_a_symbol_keeps_it_alive() -> None:
    graph = parse(HOST)
    old = graph.definers["k"]
    new = emit_node(old.node.op, old.node.inputs, loc=LOC).output  # type: ignore[union-attr]
    graph.replace(old, new)
    assert graph.definers["k"] is new
    assert graph.outputs[0] is new
    verify(graph)


def test_a_node_with_two_results_lives_while_one_is_read() -> None:
    graph = Graph()
    x = graph.input("x", TYPE)
    values, indices = emit_node(ops.TopK(k=1, axis=1), [x], loc=LOC).outputs
    graph.output(values, "v")
    graph.output(indices, "i")
    graph.replace(indices, emit(ops.Const.of(np.zeros((2, 1), np.int64)), [], loc=LOC))
    assert values.node in list(graph.nodes())
    assert x.users
    graph.replace(values, emit(ops.Slice(starts=(0, 0), sizes=(2, 1), steps=(1, 1)), [x], loc=LOC))
    assert [n.op.name for n in graph.nodes()] == ["slice", "const"]


def test_a_cycle_is_found_and_named() -> None:
    graph, (_x, a, b, _c) = _chain(3)
    assert a.node is not None
    a.node.inputs = (b,)
    with pytest.raises(GraphError, match="the graph has a cycle through") as error:
        list(graph.nodes())
    assert "unary" in str(error.value)
    with pytest.raises(GraphError, match="cycle"):
        verify(graph)


def test_emitting_checks_operands() -> None:
    graph = Graph()
    x = graph.input("x", TYPE)
    with pytest.raises(TypeMismatch, match="unary takes 1 operands, got 2") as error:
        emit(NEG, [x, x], loc=Loc("conv1"))
    assert "from conv1" in str(error.value)
    assert "in unary(%x: f32[2,3], %x: f32[2,3])" in str(error.value)
    with pytest.raises(TypeMismatch, match="not a tensor"):
        assert Value(SequenceType(TYPE), "s", LOC).tensor
    with pytest.raises(TypeMismatch, match="at least one operand"):
        emit(ops.Concat(axis=0), [], loc=LOC)


def _break(change: Callable[[Graph, list[Value]], None]) -> GraphError:
    graph, values = _chain(3)
    verify(graph)
    change(graph, values)
    with pytest.raises(GraphError) as error:
        verify(graph)
    return error.value


def _foreign(graph: Graph, values: list[Value]) -> None:
    other = Value(TYPE, "other", LOC)
    values[1].node.inputs = (other,)  # type: ignore[union-attr]
    other.users[values[1].node] = None  # type: ignore[index]


def _unlinked(graph: Graph, values: list[Value]) -> None:
    values[1].users.clear()


def _mistyped(graph: Graph, values: list[Value]) -> None:
    values[2].type = TYPE.with_shape((3, 2))


def _unnamed(graph: Graph, values: list[Value]) -> None:
    graph.output_names.append("another")


def _twice(graph: Graph, values: list[Value]) -> None:
    graph.input("x", TYPE)


def _unknown_result(graph: Graph, values: list[Value]) -> None:
    graph.outputs[0] = Value(TYPE, "lost", LOC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_foreign, "%other is used but neither an input nor computed"),
        (_unlinked, "does not know that this node uses it"),
        (_mistyped, r"types are f32\[3,2\], the operator gives f32\[2,3\]"),
        (_unnamed, "1 outputs but 2 names"),
        (_twice, "two inputs have the same name"),
        (_unknown_result, "output 'y' is neither an input nor computed"),
    ],
)
def test_the_verifier_finds(change: Callable[..., None], message: str) -> None:
    error = _break(change)
    assert re.search(message, str(error))


def test_the_verifier_looks_into_nested_graphs() -> None:
    graph = parse(CONTROL)
    (loop,) = [n for n in graph.nodes() if isinstance(n.op, ops.Loop)]
    loop.op.body.output_names.append("another")  # type: ignore[attr-defined]
    with pytest.raises(GraphError, match="2 outputs but 3 names"):
        verify(graph)


def test_symbols_that_nothing_defines_are_free() -> None:
    b, k = sym("b"), sym("k")
    graph = Graph()
    x = graph.input("x", TensorType(DType.F32, (b, 2)))
    graph.output(emit(ops.Expand(shape=(k, b, 2)), [x], loc=LOC), "y")
    assert graph.free_symbols() == {"k"}
    assert graph.symbols() == {"b"}
    bound = graph.with_symbols({"k": 3})
    assert bound.free_symbols() == frozenset()
    assert interpret(bound, [np.ones((4, 2), np.float32)])[0].shape == (3, 4, 2)
    assert graph.with_symbols({"z": 1}) is graph
    fixed = graph.substitute({"b": 4, "k": k * 2})
    assert [str(v.type) for v in (*fixed.inputs, *fixed.outputs)] == ["f32[4,2]", "f32[2*k,4,2]"]
    verify(fixed)


def test_weights_are_equal_by_contents() -> None:
    a = Weight(np.arange(6, dtype=np.float32))
    same = Weight(np.arange(6, dtype=np.float32).copy(), "name")
    assert a == same
    assert hash(a) == hash(same)
    assert a.digest == same.digest
    for other in (
        np.arange(6, dtype=np.int32),
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array([0, 1, 2, 3, 4, 6], np.float32),
        np.array([-0.0, 1, 2, 3, 4, 5], np.float32),
    ):
        assert a != Weight(other)
    assert Weight(np.array(["a"], object)) == Weight(np.array(["a"], object))
    assert Weight(np.arange(6)[::2]) == Weight(np.array([0, 2, 4]))
    assert a != 3
    assert repr(a) == "Weight(float32[6])"


def test_the_interpreter_checks_shapes_and_drops_values() -> None:
    graph, _ = _chain(3)
    seen = []
    (y,) = interpret(
        graph, [np.ones((2, 3), np.float32)], observe=lambda n, r: seen.append((n.op, r[0].sum()))
    )
    assert [s for _, s in seen] == [-6, 6, -6]
    assert y.sum() == -6
    with pytest.raises(GraphError, match="input 'x' has size 4 on axis 1, expected 3"):
        interpret(graph, [np.ones((2, 4), np.float32)])
    with pytest.raises(GraphError, match="has 1 dimensions, expected 2"):
        interpret(graph, [np.ones(2, np.float32)])
