"""The text form: what is printed is read back, and rubbish is refused with its line."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest

from lamina import ops
from lamina.errors import GraphError
from lamina.importers.onnx import load
from lamina.ir.attributes import format_attribute
from lamina.ir.graph import Graph, emit
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.text import parse_graph, parse_type, print_graph, quote, unquote
from lamina.ir.types import DType, OptionalType, SequenceType, TensorType
from lamina.ir.verify import verify
from lamina.ir.weight import Weight
from lamina.ops.kinds import UnaryKind
from tests.importers.models import model
from tests.plan.plans import CONTROL, CONVOLUTION, DYNAMIC, HOST
from tests.samples import all_samples


def _weights(graph: Graph, table: dict[str, Weight] | None = None) -> dict[str, Weight]:
    table = {} if table is None else table
    for node in graph.nodes():
        for value in vars(node.op).values():
            if isinstance(value, Weight):
                table[value.digest] = value
            elif isinstance(value, Graph):
                _weights(value, table)
    return table


def _round_trip(graph: Graph) -> Graph:
    for options in ({}, {"locs": True}):
        text = print_graph(graph, **options)
        again = parse_graph(text, ops.BY_NAME, _weights(graph))
        verify(again)
        assert print_graph(again, **options) == text
    assert [v.name for v in again.inputs] == [v.name for v in graph.inputs]
    assert again.output_names == graph.output_names
    assert [str(n.loc) for n in again.nodes()] == [str(n.loc) for n in graph.nodes()]
    return again


@pytest.mark.parametrize("text", [CONVOLUTION, DYNAMIC, HOST, CONTROL])
def test_text_that_was_written_by_hand(text: str) -> None:
    graph = parse_graph(text, ops.BY_NAME)
    again = _round_trip(graph)
    assert again.definers.keys() == graph.definers.keys()


@pytest.mark.parametrize("op", list(all_samples()), ids=lambda op: op.name)
def test_every_operator_with_every_attribute_keeps_its_value(op: type) -> None:
    for sample in all_samples()[op]:
        graph = Graph()
        types = [TensorType(DType.of(np.asarray(x).dtype), np.shape(x)) for x in sample.inputs]
        values = [graph.input(f"i {k}", t) for k, t in enumerate(types)]
        from lamina.ir.graph import emit_node

        node = emit_node(sample.op, values, loc=Loc("here"))
        for k, v in enumerate(node.outputs):
            graph.output(v, f"o{k}")
        (parsed,) = {v.node for v in _round_trip(graph).outputs}
        assert parsed is not None
        assert str(parsed.op) == str(sample.op)


IMPORTED = {
    "if": """agraph (bool c, float[4] x) => (float[4] y) {
      y = If (c) <
        then_branch = big () => (float[4] t) { t = Abs(x) },
        else_branch = small () => (float[4] e) { e = Neg(x) }
      >
    }""",
    "loop": """agraph (int64 n, bool c, float[4] x) => (float[4] y, float[K,4] s) {
      y, s = Loop (n, c, x) <
        body = step (int64 i, bool d, float[4] a) => (bool e, float[4] b, float[4] f) {
          e = Identity(d)
          b = If (d) <
            then_branch = t () => (float[4] u) { u = Abs(a) },
            else_branch = z () => (float[4] v) { v = Add(a, x) }
          >
          f = Neg(b)
        }
      >
    }""",
    "data decides": """agraph (float[N] x) => (int64[1,K] i, float[K] y) {
      i = NonZero(x)
      axes = Constant<value = int64[1] {0}>()
      j = Squeeze(i, axes)
      y = Gather(x, j)
    }""",
    "host call": "agraph (string[N] a) => (string[N] c) { c = StringConcat(a, a) }",
    "sequence": "agraph (seq(float[N]) s) => (float[M] y) { y = ConcatFromSequence<axis=0>(s) }",
}


@pytest.mark.parametrize("name", IMPORTED)
def test_imported_graphs(name: str) -> None:
    graph = load(model(IMPORTED[name]))
    again = _round_trip(graph)
    assert again.definers.keys() == graph.definers.keys()


def test_a_model_file_keeps_its_meaning(tmp_path: Path) -> None:
    source = """agraph (float[b,3,6,6] x, float[8,3,3,3] w, float[8] bias) => (float[b,8] y) {
      c = Conv<pads = [1,1,1,1]>(x, w, bias)
      r = Relu(c)
      g = GlobalAveragePool(r)
      y = Flatten<axis = 1>(g)
    }"""
    proto = model(source)
    onnx.save(proto, tmp_path / "m.onnx")
    graph = load(tmp_path / "m.onnx")
    again = _round_trip(graph)
    rng = np.random.default_rng(0)
    shapes = ((2, 3, 6, 6), (8, 3, 3, 3), (8,))
    inputs = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    for y, z in zip(interpret(graph, inputs), interpret(again, inputs), strict=True):
        np.testing.assert_array_equal(y, z)


NAMES = [
    "x",
    "0",
    "a/b:0",
    "with space",
    'quo"te',
    "back\\slash",
    "",
    "ü",
    ")",
    "# no",
    "a, %b",
    "\n",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_need_quotes(name: str) -> None:
    graph = Graph()
    x = graph.input(name, TensorType(DType.F32, (2,)))
    y = emit(ops.Unary(kind=UnaryKind.NEG), [x], loc=Loc(name))
    graph.output(y, name + "!")
    graph.output(x, name)
    _round_trip(graph)
    assert unquote(quote(name)) == name


def test_locations_survive_with_their_parents() -> None:
    graph = Graph()
    x = graph.input("x", TensorType(DType.F32, (2,)))
    loc = Loc.fused("Rule", Loc('a "b"'), Loc("c  # d"), Loc('a "b"'))
    graph.output(emit(ops.Unary(kind=UnaryKind.NEG), [x], loc=loc))
    again = parse_graph(print_graph(graph, locs=True), ops.BY_NAME)
    (node,) = again.nodes()
    assert str(node.loc) == 'Rule(a "b", c  # d)'
    assert list(loc.sources()) == ['a "b"', "c  # d"]


def test_small_constants_show_their_contents() -> None:
    arrays = [
        np.array([[1.5, -2, 1e-30]], np.float32),
        np.array([np.nan, np.inf, -np.inf], np.float32),
        np.array(7, np.int64),
        np.array([True, False]),
        np.zeros((0, 3), np.float32),
        np.array([2**63 + 5], np.uint64),
        np.array([0.1], np.float64),
        np.array([0.1, 3], np.float16),
    ]
    for array in arrays:
        graph = Graph()
        graph.output(emit(ops.Const.of(array), [], loc=Loc("c")), "c")
        text = print_graph(graph)
        assert "value=" in text
        (again,) = interpret(parse_graph(text, ops.BY_NAME), [])
        assert again.dtype == array.dtype
        np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize(
    "type",
    [
        TensorType(DType.F32, ()),
        TensorType(DType.I4, (3, 0)),
        SequenceType(TensorType(DType.STR, (2,))),
        OptionalType(SequenceType(TensorType(DType.BF16, (1, 2)))),
    ],
    ids=str,
)
def test_types_are_read_back(type: object) -> None:
    assert parse_type(str(type)) == type


@pytest.mark.parametrize("dtype", DType)
def test_every_element_type_is_read_back(dtype: DType) -> None:
    assert parse_type(f"{dtype}[a,2*b]").dtype is dtype  # type: ignore[union-attr]
    assert DType.of(dtype.numpy) is dtype


@pytest.mark.parametrize(
    "text", ["", "f32", "f99[2]", "f32[2", "f32(2)", "seq<>", "seq<f32>", "seq<f32[2]", "f32[b c]"]
)
def test_what_is_no_type(text: str) -> None:
    with pytest.raises(GraphError):
        parse_type(text)


NODE = "graph(%x: f32[2]) {{\n  {}\n  return %y\n}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no graph"),
        ("nonsense", "expected 'graph"),
        ("graph(%x: f32[2]) {", "ends inside a graph"),
        ("graph(%x: f32[2]) {\n}", "does not return"),
        ("graph(x: f32[2]) {\n  return %x\n}", "not an input: 'x: f32"),
        ("graph(%x: f33[2]) {\n  return %x\n}", "not an element type: 'f33'"),
        ("graph(%x: f32[2]) {\n  return x\n}", "not a result: 'x'"),
        ("graph(%x: f32[2]) {\n  return %z\n}", "%z is used before it is defined"),
        (NODE.format("%y = nosuch(%x)"), "there is no operator 'nosuch'"),
        (NODE.format("%y = unary(%x)"), "kind"),
        (NODE.format("%y = unary(%x) kind=nosuch"), "'nosuch' is not a UnaryKind"),
        (NODE.format("%y = unary(%x) kind=neg colour=red"), "unary has no attribute colour"),
        (NODE.format("%y = unary(%x) kind=neg kind=abs"), "not an attribute: 'kind=abs'"),
        (NODE.format("%y = unary(%x, %x) kind=neg"), "takes 1 operands, got 2"),
        (NODE.format("%y, %z = unary(%x) kind=neg"), "has 1 results, 2 are named"),
        (NODE.format("%y = transpose(%x) perm=(0,1)"), "perm"),
        (NODE.format("%y = transpose(%x) perm=0"), "'0' is not a tuple"),
        (NODE.format("%y = const() type=f32[2] digest=12"), "no entry 12"),
        (NODE.format("%y = const() type=f32[2] value=(1,2,3)"), "3"),
        (NODE.format("%y = const() type=f32[b] value=(1,2)"), "known sizes"),
        (NODE.format("%y = const() value=(1,2)"), "type"),
        (NODE.format("%y <- neg %x"), "cannot read this line"),
        (NODE.format("%y = region(%x) body=@9"), "'@9' is not a Graph"),
    ],
)
def test_mistakes_are_named_with_their_line(text: str, message: str) -> None:
    with pytest.raises(GraphError, match=message) as error:
        parse_graph(text, ops.BY_NAME)
    if text not in ("", "graph(%x: f32[2]) {"):
        assert "line " in str(error.value)


TEXTS = (
    CONVOLUTION,
    DYNAMIC,
    HOST,
    CONTROL,
    *(print_graph(load(model(m))) for m in IMPORTED.values()),
)
PIECES = (
    "%",
    "(",
    ")",
    "=",
    ",",
    '"',
    "#",
    "@1",
    "-1",
    "0",
    "9999999999999",
    "b",
    "f32[",
    "\n",
    "{",
)


def _mutated(text: str, rng: random.Random) -> str:
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(text) + 1)
        action = rng.randrange(5)
        if action == 0:
            text = text[:at] + text[at + rng.randrange(1, 12) :]
        elif action == 1:
            text = text[:at] + rng.choice(PIECES) + text[at:]
        elif action == 2:
            other = rng.randrange(len(text) + 1)
            text = text[:at] + text[other : other + rng.randrange(1, 30)] + text[at:]
        elif action == 3:
            text = text[:at] + chr(rng.randrange(32, 127)) + text[at + 1 :]
        else:
            lines = text.split("\n")
            i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
            text = "\n".join(lines)
    return text


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_mutated_text_is_a_graph_or_a_graph_error(number: int) -> None:
    rng = random.Random(number)
    weights = (
        _weights(parse_graph(TEXTS[number], ops.BY_NAME)) if "digest" not in TEXTS[number] else {}
    )
    refused = 0
    for _ in range(400):
        text = _mutated(TEXTS[number], rng)
        try:
            parse_graph(text, ops.BY_NAME, weights)
        except GraphError:
            refused += 1
    assert 100 < refused < 400


def test_attributes_of_every_kind_are_printed() -> None:
    assert format_attribute(None) == "none"
    assert format_attribute(True) == "true"
    assert format_attribute((1,)) == "(1,)"
    assert format_attribute(("a b", 2.5)) == '("a\\u0020b",2.5)'
    assert format_attribute(b"\x00\xff") == "b64:AP8="
    assert format_attribute(DType.F16) == "f16"
