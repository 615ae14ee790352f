import numpy as np
import pytest

from lamina.errors import ImportFailed
from lamina.importers.onnx import check, load
from tests.importers.models import model, normal, ops_of, run

CHOOSE = """agraph (bool c, float[N, 3] x, float[N, 3] z) => (float[N, 3] y) {
  h = Relu(x)
  y = If(c) <
    then_branch = t () => (float[N, 3] a) { a = Add(h, z) },
    else_branch = e () => (float[N, 3] b) { k = Constant<value_float = 2.0>() b = Mul(h, k) }>
}"""


@pytest.mark.parametrize("c", [True, False])
def test_if_captures_values_of_the_graph_around_it(c):
    x, z = normal(2, 3), normal(2, 3, seed=1)
    h = np.maximum(x, 0)
    (y,) = run(CHOOSE, np.array(c), x, z)
    np.testing.assert_allclose(y, h + z if c else h * 2, rtol=1e-6)


def test_if_branches_have_the_same_inputs():
    (node,) = (n for n in load(model(CHOOSE)).nodes() if n.op.name == "if")
    names = [[v.name for v in g.inputs] for g in (node.op.then_branch, node.op.else_branch)]
    assert names == [["h", "z"], ["h", "z"]]
    assert len(node.inputs) == 3


def test_if_with_a_known_condition_is_one_branch():
    proto = model(
        CHOOSE.replace("(bool c, ", "(").replace(
            "h = Relu(x)",
            """
      h = Relu(x) s = Shape(x) r = Size(s) two = Constant<value_int = 2>() c = Equal(r, two)""",
        )
    )
    assert ops_of(load(proto)) == ["activation", "binary"]


@pytest.mark.parametrize("c", [True, False])
def test_if_branches_may_differ_in_size(c):
    proto = model(
        """agraph (bool c, float[4] x) => (float[K] y) {
          y = If(c) <
            then_branch = t () => (float[4] a) { a = Neg(x) },
            else_branch = e () => (float[8] b) { b = Concat<axis = 0>(x, x) }>
        }"""
    )
    x = normal(4)
    np.testing.assert_array_equal(run(proto, np.array(c), x)[0], -x if c else np.tile(x, 2))


def test_loop_with_carried_values_scans_and_captures():
    proto = model(
        """agraph (int64 m, float[2] x, float[2] d) => (float[2] y, float[K, 2] all) {
          t = Constant<value = bool {1}>()
          y, all = Loop(m, t, x) <
           body = b (int64 i, bool c, float[2] a) => (bool o, float[2] n, float[2] s) {
            o = Identity(c)
            f = CastLike(i, a)
            w = Mul(d, f)
            n = Add(a, w)
            s = Neg(n)
          }>
        }"""
    )
    x, d = normal(2), normal(2, seed=1)
    y, rows = run(proto, np.array(4), x, d)
    states = [x + d * sum(range(i + 1)) for i in range(4)]
    np.testing.assert_allclose(y, states[-1], rtol=1e-5)
    np.testing.assert_allclose(rows, -np.stack(states), rtol=1e-5)
    assert run(proto, np.array(0), x, d)[1].shape == (0, 2)


def test_loop_whose_carried_value_grows():
    proto = model(
        """agraph (int64 m, float[1] x) => (float[K] y) {
          y = Loop(m, , x) <body = b (int64 i, bool c, float[n] a) => (bool o, float[k] r) {
            o = Identity(c)
            r = Concat<axis = 0>(a, x)
          }>
        }"""
    )
    x = normal(1)
    assert run(proto, np.array(3), x)[0].tolist() == [x[0]] * 4


def test_loop_that_stops_by_its_condition():
    proto = model(
        """agraph (int64 x) => (int64 y) {
          t = Constant<value = bool {1}>()
          y = Loop(, t, x) <body = b (int64 i, bool c, int64 a) => (bool o, int64 r) {
            two = Constant<value_int = 2>() top = Constant<value_int = 100>()
            r = Mul(a, two)
            o = Less(r, top)
          }>
        }"""
    )
    assert run(proto, np.array(3))[0] == 192


def test_nested_control_flow_captures_through_every_level():
    proto = model(
        """agraph (int64 m, bool c, float[2] x, float[2] w) => (float[2] y) {
          y = Loop(m, , x) <body = b (int64 i, bool g, float[2] a) => (bool o, float[2] r) {
            o = Identity(g)
            r = If(c) <
              then_branch = t () => (float[2] p) { p = Add(a, w) },
              else_branch = e () => (float[2] q) { q = Sub(a, w) }>
          }>
        }"""
    )
    x, w = normal(2), normal(2, seed=1)
    for c, sign in ((True, 1), (False, -1)):
        (y,) = run(proto, np.array(3), np.array(c), x, w)
        np.testing.assert_allclose(y, x + 3 * sign * w, rtol=1e-5)


SCAN = """agraph (float[2] s, float[T, 2] x, float[2, T] z)
    => (float[2] y, float[T, 2] a, float[2, T] b) {
  y, a, b = Scan<num_scan_inputs = 2, scan_input_axes = [0, 1], scan_input_directions = [0, 1],
                 scan_output_axes = [0, 1], scan_output_directions = [0, 1],
    body = g (float[2] p, float[2] u, float[2] v) => (float[2] q, float[2] m, float[2] n) {
      w = Mul(u, v) q = Add(p, w) m = Identity(q) n = Neg(w)
    }>(s, x, z)
}"""


def test_scan_in_both_directions_and_along_other_axes():
    s, x, z = normal(2), normal(3, 2, seed=1), normal(2, 3, seed=2)
    y, a, b = run(SCAN, s, x, z)
    products = x * z[:, ::-1].T
    np.testing.assert_allclose(a, s + np.cumsum(products, 0), rtol=1e-5)
    np.testing.assert_allclose(y, a[-1], rtol=1e-6)
    np.testing.assert_allclose(b, -products[::-1].T, rtol=1e-6)


FUNCTION = """
<domain: "acme", opset_import: ["": 21]>
Scaled <alpha, beta: float = 1.0> (x, bias) => (y) {
  a = Constant<value_float: float = @alpha>()
  b = Constant<value_float: float = @beta>()
  h = Mul(x, a)
  k = Mul(h, b)
  y = Add(k, bias)
}
"""


def test_functions_are_inlined_with_their_attributes():
    proto = model(
        "agraph (float[2] x, float[2] z) => (float[2] y) "
        "{ [s] y = acme.Scaled<alpha = 3.0>(x, z) }",
        functions=FUNCTION,
        domains=', "acme" : 1',
    )
    x, z = normal(2), normal(2, seed=1)
    np.testing.assert_allclose(run(proto, x, z)[0], 3 * x + z, rtol=1e-6)
    report = check(proto)
    assert [n.support.value for n in report.nodes][-1] == "function"
    assert report.nodes[0].name == "s (Scaled)/Constant#0 (Constant)"


def test_functions_that_call_themselves_are_refused():
    body = '<domain: "acme", opset_import: ["": 21, "acme": 1]> F (x) => (y) { y = acme.F(x) }'
    proto = model("agraph (float[2] x) => (float[2] y) { y = acme.F(x) }", 21, body, ', "acme" : 1')
    with pytest.raises(ImportFailed, match="'F' calls itself"):
        load(proto)


def test_operators_that_onnx_defines_by_functions_are_expanded():
    proto = model(
        "agraph (float[4, 3] x, int64[4] t) => (float l) { l = SoftmaxCrossEntropyLoss(x, t) }"
    )
    x, t = normal(4, 3), np.array([0, 2, 1, 1])
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    np.testing.assert_allclose(run(proto, x, t)[0], -log_p[np.arange(4), t].mean(), rtol=1e-5)


def test_sequences_run_on_the_host():
    proto = model(
        """agraph (float[2] x, float[3] z) => (float[5] y) {
          s = SequenceConstruct(x, z) y = ConcatFromSequence<axis = 0>(s)
        }"""
    )
    assert set(ops_of(load(proto))) == {"host_call"}
    x, z = normal(2), normal(3)
    np.testing.assert_array_equal(run(proto, x, z)[0], np.concatenate([x, z]))
