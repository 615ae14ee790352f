"""Operators that contain graphs."""

from __future__ import annotations

import numpy as np
import pytest
from tests.samples.control import binary_graph, growing_loop
from tests.samples.sample import normal

from lamina import ops
from lamina.errors import TypeMismatch
from lamina.ir.dims import sym
from lamina.ir.graph import Graph, emit, emit_node
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.text import parse_graph, parse_type
from lamina.ops import BinaryKind, RandomKind

HERE = Loc("test")
MATRIX = parse_type("f32[2,3]")


def body(text: str) -> Graph:
    return parse_graph(text, ops.BY_NAME)


def types(*texts):
    return [parse_type(t) for t in texts]


EXPAND = """
graph(%x: f32[1]) {
  %y = expand(%x) shape=(n,)
  return %y
}
"""
ADD = """
graph(%a: f32[n,3], %b: f32[n,3]) {
  %y = binary(%a, %b) kind=add
  return %y
}
"""
PICK = """
graph(%x: f32[m]) {
  %p = non_zero(%x) count=picked
  %f = reshape(%p) shape=(picked,)
  %y = gather(%x, %f)
  define picked = %p
  return %y
}
"""
KEEP = """
graph(%x: f32[m]) {
  return %x
}
"""


def test_region_types_follow_the_operands():
    region = ops.Region(body=body(ADD))
    assert [str(t) for t in region.infer(*types("f32[n,3]", "f32[n,3]"))] == ["f32[n,3]"]
    assert [str(t) for t in region.infer(*types("f32[4,3]", "f32[4,3]"))] == ["f32[4,3]"]
    for wrong, fact in (
        (("f32[4,3]",), "takes 2 values, got 1"),
        (("f32[4,3]", "f32[5,3]"), "%b of the body is f32[n,3] but gets f32[5,3]"),
        (("f32[4,3]", "f16[4,3]"), "gets f16[4,3]"),
        (("f32[4,3]", "f32[3]"), "gets f32[3]"),
    ):
        with pytest.raises(TypeMismatch) as e:
            region.infer(*types(*wrong))
        assert fact in str(e.value)


def test_a_region_may_have_several_results():
    graph = binary_graph(BinaryKind.ADD)
    graph.output(graph.inputs[0])
    a, b = normal(2, 3), normal(2, 3, seed=1)
    total, same = ops.Region(body=graph).reference(a, b)
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_array_equal(same, a)


def test_outer_symbols_reach_nested_graphs():
    """``n`` comes from the graph around the branches, which do not see an array of that size."""
    outer = Graph()
    flag, x = outer.input("flag", parse_type("bool[]")), outer.input("x", parse_type("f32[n]"))
    one = outer.input("one", parse_type("f32[1]"))
    choice = ops.If(then_branch=body(EXPAND), else_branch=body(EXPAND))
    assert choice.symbols() == {"n"}
    (y,) = emit_node(choice, [flag, one], loc=HERE).outputs
    assert str(y.type) == "f32[n]"
    outer.output(emit(ops.Binary(kind=BinaryKind.ADD), [x, y], loc=HERE))
    (result,) = interpret(outer, [np.bool_(True), np.float32([1, 2, 3]), np.float32([10])])
    assert result.tolist() == [11, 12, 13]


def test_substitution_of_numbers_and_of_symbols():
    region = ops.Region(body=body(EXPAND))
    numbered = region.substitute({"n": 3})
    assert numbered.body.bound == {"n": 3} and not numbered.symbols()
    assert [str(t) for t in numbered.infer(*types("f32[1]"))] == ["f32[3]"]
    assert numbered.reference(np.float32([4]))[0].tolist() == [4, 4, 4]
    renamed = region.substitute({"n": sym("m") * 2})
    assert renamed.symbols() == {"m"}
    assert [str(t) for t in renamed.infer(*types("f32[1]"))] == ["f32[2*m]"]
    assert region.substitute({"other": 3}) is region
    assert region.symbols() == {"n"}


def test_symbols_of_inputs_and_definers_are_not_free():
    assert body(PICK).free_symbols() == frozenset()
    assert body(EXPAND).free_symbols() == {"n"}


def test_branches_of_different_size_need_declared_types():
    plain = ops.If(then_branch=body(PICK), else_branch=body(KEEP))
    with pytest.raises(TypeMismatch, match="declare output_types"):
        plain.infer(*types("bool[]", "f32[m]"))
    declared = ops.If(
        then_branch=body(PICK), else_branch=body(KEEP), output_types=tuple(types("f32[k]"))
    )
    graph = Graph()
    operands = [graph.input(f"x{i}", t) for i, t in enumerate(types("bool[]", "f32[m]"))]
    (y,) = emit_node(declared, operands, loc=HERE).outputs
    graph.definers["k"] = y
    graph.output(emit(ops.Expand(shape=(2, sym("k"))), [y], loc=HERE))
    x = np.float32([0, 5, 0])
    assert interpret(graph, [np.bool_(True), x])[0].tolist() == [[5], [5]]
    assert interpret(graph, [np.bool_(False), x])[0].tolist() == [[0, 5, 0]] * 2


def test_declared_types_are_checked():
    wrong = ops.If(
        then_branch=body(KEEP), else_branch=body(KEEP), output_types=tuple(types("f32[k,2]"))
    )
    with pytest.raises(TypeMismatch, match=r"result 0 of then_branch is f32\[m\], declared"):
        wrong.infer(*types("bool[]", "f32[m]"))
    both = {"then_branch": body(KEEP), "else_branch": body(KEEP)}
    with pytest.raises(TypeMismatch, match="must be bool"):
        ops.If(**both).infer(*types("f32[]", "f32[m]"))


def test_loop_types():
    loop = ops.Loop(body=growing_loop(), carried=1, counts=(sym("c"),))
    with pytest.raises(TypeMismatch, match="declare output_types"):
        loop.infer(*types("i64[]", "bool[]", "f32[1]", "f32[2]"))
    with pytest.raises(TypeMismatch, match="expected a condition, 1 carried values and 0 slices"):
        ops.Loop(body=growing_loop(), carried=1).infer(
            *types("i64[]", "bool[]", "f32[1]", "f32[2]")
        )
    with pytest.raises(TypeMismatch, match="trip_count must be i64"):
        loop.infer(*types("i32[]", "bool[]", "f32[1]", "f32[2]"))


def test_loop_stops_at_a_false_condition():
    declared = tuple(types("f32[k]", "f32[c,2]"))
    loop = ops.Loop(body=growing_loop(), carried=1, counts=(sym("c"),), output_types=declared)
    grown, scans = loop.reference(np.int64(9), np.bool_(False), np.float32([7]), np.float32([1, 2]))
    assert grown.tolist() == [7] and scans.shape == (0, 2)


def test_purity_looks_inside():
    random = Graph()
    random.output(emit(ops.Random(kind=RandomKind.NORMAL, shape=(2, 3), seed=1), [], loc=HERE), "y")
    assert not ops.Region(body=random).pure
    assert ops.Region(body=binary_graph(BinaryKind.ADD)).pure


def test_nested_graphs_print_and_parse():
    text = """
graph @1(%a: f32[2,3], %b: f32[2,3]) {
  %0: f32[2,3] = binary(%a, %b) kind=mul
  return %0 as "y"
}
graph(%x: f32[2,3]) {
  %0: f32[2,3] = region(%x, %x) body=@1
  return %0
}
"""
    x = normal(2, 3)
    np.testing.assert_array_equal(interpret(body(text), [x])[0], x * x)


def test_substitution_keeps_definers():
    graph = body(PICK).substitute({"m": 4})
    assert [str(v.type) for v in graph.inputs] == ["f32[4]"]
    assert list(graph.definers) == ["picked"]
    assert graph.definers["picked"] in [v for node in graph.nodes() for v in node.outputs]
    assert interpret(graph, [np.float32([0, 2, 0, 3])])[0].tolist() == [2, 3]
