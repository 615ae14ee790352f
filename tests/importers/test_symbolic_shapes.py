"""Shape arithmetic is evaluated at import; what data decide is bound when the model runs."""

import numpy as np
import onnx
import pytest

from lamina.errors import Unsupported
from lamina.importers.onnx import load
from tests.importers.models import model, normal, ops_of, run


def test_attention_like_reshapes_need_no_shape_operators():
    proto = model(
        """agraph (float[B, S, 12] x) => (float[B, 3, S, 4] y) {
          s = Shape(x)
          zero = Constant<value_int = 0>() one = Constant<value_int = 1>()
          b = Gather(s, zero) n = Gather(s, one)
          axes = Constant<value_ints = [0]>()
          b1 = Unsqueeze(b, axes) n1 = Unsqueeze(n, axes)
          heads = Constant<value_ints = [3]>() rest = Constant<value_ints = [-1]>()
          target = Concat<axis = 0>(b1, n1, heads, rest)
          r = Reshape(x, target)
          y = Transpose<perm = [0, 2, 1, 3]>(r)
        }"""
    )
    graph = load(proto)
    assert ops_of(graph) == ["reshape", "transpose"]
    assert str(graph.outputs[0].type) == "f32[B,3,S,4]"
    x = normal(2, 5, 12)
    expected = x.reshape(2, 5, 3, 4).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(run(proto, x)[0], expected)


def test_expand_with_a_mask_of_minus_ones():
    # The pattern that exporters write for x.expand(-1, n): where(shape == -1, ones, shape).
    proto = model(
        """agraph (float[N, 1] x) => (float[N, 4] y) {
          s = Shape(x)
          i = Constant<value_ints = [0]>() n = Gather(s, i)
          four = Constant<value_ints = [4]>()
          wanted = Concat<axis = 0>(n, four)
          two = Constant<value_ints = [2]>()
          ones = ConstantOfShape<value = int64[1] {1}>(two)
          minus = Constant<value_int = -1>()
          negative = Mul(ones, minus)
          same = Equal(wanted, negative)
          target = Where(same, ones, wanted)
          y = Expand(x, target)
        }"""
    )
    assert ops_of(load(proto)) == ["expand"]
    x = normal(3, 1)
    np.testing.assert_array_equal(run(proto, x)[0], np.broadcast_to(x, (3, 4)))


def test_sizes_that_pass_through_floats():
    proto = model(
        """agraph (float[1, 2, H, 6] x) => (float[1, 2, K, 6] y) {
          h = Shape<start = 2, end = 3>(x)
          hf = Cast<to = 1>(h)
          two = Constant<value_float = 2.0>()
          scaled = Mul(hf, two)
          floor = Floor(scaled)
          k = Cast<to = 7>(floor)
          before = Constant<value_ints = [1, 2]>() after = Constant<value_ints = [6]>()
          sizes = Concat<axis = 0>(before, k, after)
          y = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric",
                     nearest_mode = "floor">(x, , , sizes)
        }"""
    )
    graph = load(proto)
    assert ops_of(graph) == ["resize"]
    assert str(graph.outputs[0].type) == "f32[1,2,2*H,6]"
    x = normal(1, 2, 3, 6)
    np.testing.assert_array_equal(run(proto, x)[0], np.repeat(x, 2, axis=2))


@pytest.mark.parametrize("target", [[6, 4], [-1, 4], [0, 4], [0, -1], [3, 8]])
def test_reshape_to_a_shape_from_data(target):
    proto = model("agraph (float[A, 4] x, int64[2] s) => (float[P, Q] y) { y = Reshape(x, s) }")
    x = normal(6, 4)
    expected = x.reshape([d or 6 for d in target])
    np.testing.assert_array_equal(run(proto, x, np.array(target))[0], expected)


@pytest.mark.parametrize(
    ("start", "end"), [(1, 4), (-3, 100), (0, -1), (-100, 2), (5, 2), (2, 2**62)]
)
@pytest.mark.parametrize("step", [1, 2, -1, -2])
def test_slice_with_bounds_from_data(start, end, step):
    proto = model(
        f"""agraph (float[A, 3] x, int64[1] s, int64[1] e) => (float[K, 3] y) {{
          a = Constant<value_ints = [0]>() p = Constant<value_ints = [{step}]>()
          y = Slice(x, s, e, a, p)
        }}"""
    )
    x = normal(7, 3)
    (y,) = run(proto, x, np.array([start]), np.array([end]))
    np.testing.assert_array_equal(y, _sliced(x, start, end, step))


@pytest.mark.parametrize(("start", "end", "step"), [(1, -1, 1), (-2, 99, 1), (-1, -99, -1)])
def test_slice_of_a_symbolic_axis_with_known_bounds(start, end, step):
    proto = model(
        f"""agraph (float[A, 3] x) => (float[K, 3] y) {{
          s = Constant<value_ints = [{start}]>() e = Constant<value_ints = [{end}]>()
          a = Constant<value_ints = [0]>() p = Constant<value_ints = [{step}]>()
          y = Slice(x, s, e, a, p)
        }}"""
    )
    assert ops_of(load(proto)) == ["slice"]
    for rows in (1, 2, 7):
        x = normal(rows, 3)
        np.testing.assert_array_equal(run(proto, x)[0], _sliced(x, start, end, step))


def _sliced(x, start, end, step):
    stop = None if step < 0 and end <= -len(x) - 1 else end
    return x[slice(start, stop, step)]


@pytest.mark.parametrize(
    ("start", "limit", "delta"), [(0, 5, 1), (3, 20, 4), (9, -2, -3), (4, 4, 1)]
)
def test_range_from_data(start, limit, delta):
    proto = model("agraph (int64 a, int64 b, int64 d) => (int64[N] y) { y = Range(a, b, d) }")
    inputs = [np.array(v) for v in (start, limit, delta)]
    np.testing.assert_array_equal(run(proto, *inputs)[0], np.arange(start, limit, delta))


def test_results_whose_size_the_data_decide_feed_later_shapes():
    proto = model(
        """agraph (float[N] x) => (float[K] y) {
          i = NonZero(x)
          t = Transpose(i)
          v = GatherND(x, t)
          s = Shape(v)
          y = Expand(v, s)
        }"""
    )
    x = np.float32([0, 3, 0, 4, 5])
    np.testing.assert_array_equal(run(proto, x)[0], [3, 4, 5])


def test_equal_split_of_a_symbolic_axis():
    proto = model(
        "agraph (float[N, 4] x) => (float[P, 4] a, float[Q, 4] b) "
        "{ a, b = Split<axis = 0, num_outputs = 2>(x) }"
    )
    x = normal(5, 4)
    a, b = run(proto, x)
    np.testing.assert_array_equal(a, x[:3])
    np.testing.assert_array_equal(b, x[3:])


def test_same_padding_of_a_symbolic_size():
    proto = model(
        """agraph (float[1, 1, H, H] x, float[1, 1, 3, 3] w) => (float[1, 1, K, K] y) {
          y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w)
        }"""
    )
    x, w = normal(1, 1, 6, 6), normal(1, 1, 3, 3, seed=1)
    static = onnx.ModelProto()
    static.CopyFrom(proto)
    (y,) = run(proto, x, w)
    (expected,) = run(static, x, w, shapes={"H": 6})
    assert y.shape == (1, 1, 3, 3)
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_data_dependent_axes_go_to_the_host():
    proto = model("agraph (float[2, 3] x, int64[1] a) => (float[2, 1] y) { y = ReduceSum(x, a) }")
    assert ops_of(load(proto)) == ["host_call"]
    x = normal(2, 3)
    (y,) = run(proto, x, np.array([1]))
    np.testing.assert_allclose(y, x.sum(1, keepdims=True), rtol=1e-6)


def test_what_no_shape_rule_covers_is_reported():
    proto = model(
        "agraph (float[2, 3] x, int64[K] s) => (float y) "
        "{ h = Reshape(x, s) y = ReduceSum<keepdims = 0>(h) }"
    )
    graph = load(proto)
    assert "host_call" in ops_of(graph)
    (y,) = run(proto, normal(2, 3), np.array([3, 2]))
    np.testing.assert_allclose(y, normal(2, 3).sum(), rtol=1e-5)
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    proto.graph.node[1].attribute[0].i = 1
    with pytest.raises(Unsupported, match="rank is not known"):
        load(proto)
