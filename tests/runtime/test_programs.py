"""Programs with unusual values: empty, scalar, returned twice, sequences, control flow."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import lamina
from lamina.ir.interpret import interpret
from tests.importers.models import model
from tests.plan.plans import graph


def _build(source: Any, **options: Any) -> lamina.Engine:
    """Build, then go through the bytes of the plan."""
    if isinstance(source, str):
        source = graph(source)
    built = lamina.build(source, timing_cache="", optimization_level=0, **options)
    return lamina.load(built.serialize())


def _like_the_interpreter(text: str, *inputs: np.ndarray, rounds: int = 2) -> list[np.ndarray]:
    engine = _build(text)
    wanted = interpret(graph(text), list(inputs))
    names = [p.name for p in engine.inputs]
    found: list[np.ndarray] = []
    for _ in range(rounds):
        found = list(engine.run(dict(zip(names, inputs, strict=True))).values())
        assert len(found) == len(wanted)
        for y, z in zip(found, wanted, strict=True):
            assert (y.shape, y.dtype) == (z.shape, z.dtype)
            np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-5)
    return found


def _like_onnxruntime(source: str, inputs: dict[str, Any]) -> list[Any]:
    proto = model(source)
    engine = _build(proto)
    wanted = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, inputs)
    for _ in range(2):
        found = list(engine.run(inputs).values())
        for y, z in zip(found, wanted, strict=True):
            _same(y, z)
    return found


def _same(y: Any, z: Any) -> None:
    if isinstance(z, list):
        assert len(y) == len(z)
        for a, b in zip(y, z, strict=True):
            _same(a, b)
    elif z is None:
        assert y is None
    else:
        np.testing.assert_allclose(y, z, rtol=1e-6)


X = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)


def test_an_input_may_be_returned() -> None:
    text = """graph(%x: f32[4,6], %z: f32[4,6]) {
      %y = binary(%x, %z) kind=add
      return %x as "same", %y as "sum", %z as "other"
    }"""
    same, _, other = _like_the_interpreter(text, X, X * 2)
    assert same is not X
    same[...] = 0
    assert X.any()
    assert other.any()


def test_a_value_may_be_returned_several_times() -> None:
    text = """graph(%x: f32[4,6]) {
      %y = unary(%x) kind=abs
      %r = reshape(%y) shape=(6,4)
      return %y as "a", %y as "b", %r as "c"
    }"""
    a, b, c = _like_the_interpreter(text, X)
    assert not np.shares_memory(a, b)
    assert not np.shares_memory(a, c)


def test_views_of_an_input_may_be_returned() -> None:
    text = """graph(%x: f32[4,6]) {
      %r = reshape(%x) shape=(24,)
      %s = slice(%x) starts=(1,0) sizes=(2,6) steps=(1,1)
      return %r as "r", %s as "s"
    }"""
    r, s = _like_the_interpreter(text, X)
    assert not np.shares_memory(r, X)
    assert not np.shares_memory(s, X)


def test_constants_may_be_returned() -> None:
    text = """graph(%x: f32[4]) {
      %c = const() type=f32[3,2] seed=5
      %d = const() type=i64[] value=7
      %y = unary(%x) kind=neg
      return %c as "c", %d as "d", %y as "y"
    }"""
    c, d, _ = _like_the_interpreter(text, X[0, :4])
    c[...] = 0
    again = _like_the_interpreter(text, X[0, :4])
    assert again[0].any()
    assert d == 7


def test_a_graph_without_steps() -> None:
    text = "graph(%x: f32[4]) {\n  return %x\n}"
    (y,) = _like_the_interpreter(text, X[0, :4])
    assert _build(text).profile() == []
    assert y.shape == (4,)


def test_a_graph_without_inputs() -> None:
    text = """graph() {
      %c = const() type=f32[3] value=(1.0,2.0,3.0)
      return %c as "c"
    }"""
    assert _build(text).run({})["c"].tolist() == [1, 2, 3]


def test_scalars() -> None:
    text = """graph(%a: f32[], %b: f32[]) {
      %y = binary(%a, %b) kind=mul
      return %y as "y"
    }"""
    (y,) = _like_the_interpreter(text, np.array(3, np.float32), np.array(4, np.float32))
    assert y == 12
    engine = _build(text)
    assert engine(np.float32(3), np.float32(5)) == 15


@pytest.mark.parametrize("shape", [(0, 6), (4, 0), (0, 0)])
def test_empty_tensors(shape: tuple[int, int]) -> None:
    rows, columns = shape
    text = f"""graph(%x: f32[{rows},{columns}], %w: f32[{columns},5]) {{
      %y = unary(%x) kind=exp
      %t = transpose(%y) perm=(1,0)
      %m = matmul(%x, %w)
      %s = reduce(%x) kind=sum axes=(1,) keepdims=false
      return %y, %t, %m, %s
    }}"""
    w = np.ones((columns, 5), np.float32)
    _like_the_interpreter(text, np.ones(shape, np.float32), w)


def test_sizes_that_become_zero_at_run_time() -> None:
    text = """graph(%x: f32[n,3]) {
      %y = unary(%x) kind=exp
      %z = concat(%y, %x) axis=0
      return %y as "y", %z as "z"
    }"""
    engine = _build(text, shapes={"x": ((0, 3), (4, 3), (9, 3))})
    for n in (4, 0, 9, 0, 1):
        x = np.full((n, 3), 0.5, np.float32)
        found = engine.run({"x": x})
        np.testing.assert_allclose(found["y"], np.exp(x), rtol=1e-5)
        np.testing.assert_allclose(found["z"], np.concatenate([np.exp(x), x]), rtol=1e-5)


def test_sizes_that_data_decides() -> None:
    text = """graph(%x: f32[n]) {
      %i = non_zero(%x) count=k
      define k = %i
      %f = cast(%i) dtype=f32
      %g = unary(%f) kind=sqrt
      return %i as "i", %g as "g"
    }"""
    engine = _build(text, shapes={"x": ((1,), (8,), (32,))})
    rng = np.random.default_rng(0)
    for n in (8, 8, 3, 32, 8):
        x = (rng.random(n) < 0.4).astype(np.float32)
        found = engine.run({"x": x})
        np.testing.assert_array_equal(found["i"], np.stack(np.nonzero(x)))
        np.testing.assert_allclose(found["g"], np.sqrt(np.stack(np.nonzero(x))), rtol=1e-5)


SEQUENCE = """agraph (float[4] x, float[4] y) => (seq(float[4]) s, float[4] e, int64 n) {
  s = SequenceConstruct(x, y)
  one = Constant<value = int64 {1}>()
  e = SequenceAt(s, one)
  n = SequenceLength(s)
}"""


def test_sequences() -> None:
    s, _, n = _like_onnxruntime(SEQUENCE, {"x": X[0, :4], "y": X[1, :4]})
    assert isinstance(s, list)
    assert n == 2


def test_a_sequence_as_input() -> None:
    source = """agraph (seq(float[N]) s) => (float[M] y) {
      y = ConcatFromSequence<axis = 0>(s)
    }"""
    engine = _build(model(source))
    for parts in ([X[0]], [X[0], X[1]], [X[0, :2], X[1, :5], X[2]]):
        np.testing.assert_array_equal(engine.run({"s": parts})["y"], np.concatenate(parts))


def test_optionals() -> None:
    source = """agraph (float[4] x) => (optional(float[4]) o, bool h, float[4] y) {
      o = Optional(x)
      h = OptionalHasElement(o)
      y = OptionalGetElement(o)
    }"""
    engine = _build(model(source))
    found = engine.run({"x": X[0, :4]})
    np.testing.assert_array_equal(found["y"], X[0, :4])
    np.testing.assert_array_equal(found["o"], X[0, :4])
    assert found["h"]


def test_strings() -> None:
    source = """agraph (string[N] a, string[N] b) => (string[N] c) {
      c = StringConcat(a, b)
    }"""
    engine = _build(model(source))
    for dtype in (object, str):
        a, b = np.array(["ab", "", "ü"], dtype), np.array(["c", "d", "x"], dtype)
        assert engine.run({"a": a, "b": b})["c"].tolist() == ["abc", "d", "üx"]


IF = """agraph (bool c, float[4] x) => (float[4] y) {
  y = If (c) <
    then_branch = big () => (float[4] t) { t = Abs(x) },
    else_branch = small () => (float[4] e) {
      two = Constant<value = float {2}>()
      e = Mul(x, two)
    }
  >
}"""


@pytest.mark.parametrize("condition", [True, False])
def test_conditionals(condition: bool) -> None:
    _like_onnxruntime(IF, {"c": np.array(condition), "x": X[0, :4]})


LOOP = """agraph (int64 n, float[4] x) => (float[4] y, float[K,4] all) {
  go = Constant<value = bool {1}>()
  y, all = Loop (n, go, x) <
    body = step (int64 i, bool c, float[4] a) => (bool d, float[4] b, float[4] s) {
      d = Identity(c)
      b = Add(a, x)
      s = Neg(b)
    }
  >
}"""


@pytest.mark.parametrize("trips", [0, 1, 5])
def test_loops(trips: int) -> None:
    y, everything = _like_onnxruntime(LOOP, {"n": np.array(trips), "x": X[0, :4]})
    assert everything.shape == (trips, 4)
    np.testing.assert_allclose(y, X[0, :4] * (trips + 1), rtol=1e-5)


def test_a_loop_that_its_condition_ends() -> None:
    source = """agraph (float limit) => (float y, float[K] all) {
      most = Constant<value = int64 {100}>()
      go = Constant<value = bool {1}>()
      zero = Constant<value = float {0}>()
      y, all = Loop (most, go, zero) <
        body = step (int64 i, bool c, float a) => (bool d, float b, float s) {
          one = Constant<value = float {1}>()
          b = Add(a, one)
          d = Less(b, limit)
          s = Identity(b)
        }
      >
    }"""
    y, everything = _like_onnxruntime(source, {"limit": np.array(6.5, np.float32)})
    assert y == 7
    assert everything.shape == (7,)


NESTED = """agraph (int64 n, int64 m, float[2] x) => (float[2] y) {
  go = Constant<value = bool {1}>()
  y = Loop (n, go, x) <
    body = outer (int64 i, bool c, float[2] a) => (bool d, float[2] b) {
      d = Identity(c)
      b = Loop (m, c, a) <
        body = inner (int64 j, bool e, float[2] f) => (bool g, float[2] h) {
          g = Identity(e)
          odd = Cast<to = 9>(j)
          h = If (odd) <
            then_branch = t () => (float[2] u) { u = Add(f, x) },
            else_branch = z () => (float[2] v) { v = Neg(f) }
          >
        }
      >
    }
  >
}"""


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (1, 1), (2, 3)])
def test_nested_control_flow(n: int, m: int) -> None:
    inputs = {"n": np.array(n), "m": np.array(m), "x": X[0, :2]}
    _like_onnxruntime(NESTED, inputs)


SCAN = """agraph (float[2] start, float[T,2] xs) => (float[2] last, float[T,2] sums) {
  last, sums = Scan <num_scan_inputs = 1, body = step (float[2] a, float[2] x)
      => (float[2] b, float[2] s) {
    b = Add(a, x)
    s = Identity(b)
  }> (start, xs)
}"""


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_scans(steps: int) -> None:
    xs = np.random.default_rng(steps).standard_normal((steps, 2)).astype(np.float32)
    _, sums = _like_onnxruntime(SCAN, {"start": np.zeros(2, np.float32), "xs": xs})
    np.testing.assert_allclose(sums, np.cumsum(xs, 0), rtol=1e-5, atol=1e-6)


def test_every_element_type_passes_through() -> None:
    from lamina.ir.types import DType

    for dtype in (d for d in DType if d is not DType.STR):
        text = (
            f'graph(%x: {dtype}[2,3]) {{\n  %y = transpose(%x) perm=(1,0)\n  return %y as "y"\n}}'
        )
        x = np.arange(6).reshape(2, 3).astype(dtype.numpy)
        y = _build(text).run({"x": x})["y"]
        assert y.dtype == dtype.numpy
        np.testing.assert_array_equal(y.astype(np.complex128), x.T.astype(np.complex128))


def test_the_models_of_this_file_are_valid() -> None:
    for source in (SEQUENCE, IF, LOOP, NESTED, SCAN):
        onnx.checker.check_model(model(source))


COUNTED = """graph(%x: f32[b,6], %z: f32[b,6]) {
  %p = binary(%x, %z) kind=less
  %n = non_zero(%p) count=n
  %t = transpose(%n) perm=(1,0)
  %g = gather_nd(%x, %t) batch_dims=0
  %y = unary(%g) kind=abs
  define n = %n
  return %n as "places", %y as "values"
}"""


def test_a_count_that_data_decides_needs_no_host() -> None:
    engine = _build(COUNTED)
    assert engine.plan.fallbacks == ()
    rng = np.random.default_rng(1)
    for rows in (4, 4, 1, 9, 4):
        x, z = rng.standard_normal((2, rows, 6)).astype(np.float32)
        places, values = engine.run({"x": x, "z": z}).values()
        np.testing.assert_array_equal(places, np.argwhere(x < z).T)
        np.testing.assert_array_equal(values, np.abs(x[x < z]))
    empty = engine.run({"x": X, "z": X})
    assert [y.shape for y in empty.values()] == [(2, 0), (0,)]


def test_box_suppression_needs_no_host() -> None:
    operands = "%boxes: f32[2,40,4], %scores: f32[2,3,40], %most: i64[1], %o: f32[1], %l: f32[1]"
    text = f"""graph({operands}) {{
      %n = nms(%boxes, %scores, %most, %o, %l) count=n center_point_box=true
      %y = cast(%n) dtype=i32
      define n = %n
      return %y as "kept"
    }}"""
    rng = np.random.default_rng(2)
    boxes = rng.uniform(1, 5, (2, 40, 4)).astype(np.float32)
    scores = rng.uniform(-1, 1, (2, 3, 40)).astype(np.float32)
    limits = [np.array([7]), np.float32([0.4]), np.float32([0.1])]
    assert _build(text).plan.fallbacks == ()
    (kept,) = _like_the_interpreter(text, boxes, scores, *limits)
    assert 6 < len(kept) <= 42
