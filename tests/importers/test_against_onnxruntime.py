"""Forms that the conformance cases do not have: parameters as constants, as in real models."""

import numpy as np
import onnxruntime
import pytest

from lamina.importers.onnx import check
from tests.importers.models import model, normal, run

CASES = {
    "resize_scales_linear": (
        21,
        """
        agraph (float[2, 3, 6, 5] x) => (float[2, 3, 9, 7] y) {
          s = Constant<value = float[4] {1, 1, 1.5, 1.4}>()
          y = Resize<mode = "linear">(x, , s)
        }
        """,
    ),
    "resize_sizes_cubic": (
        21,
        """
        agraph (float[2, 3, 6, 5] x) => (float[2, 3, 4, 8] y) {
          s = Constant<value_ints = [2, 3, 4, 8]>()
          y = Resize<mode = "cubic", coordinate_transformation_mode = "align_corners">(x, , , s)
        }
        """,
    ),
    "resize_nearest_opset_10": (
        10,
        """
        agraph (float[2, 3, 6, 5] x) => (float[2, 3, 12, 10] y) {
          s = Constant<value = float[4] {1, 1, 2, 2}>()
          y = Resize(x, s)
        }
        """,
    ),
    "cumsum": (
        21,
        """
        agraph (float[2, 3, 6, 5] x) => (float[2, 3, 6, 5] y) {
          a = Constant<value_int = -1>()
          y = CumSum<reverse = 1, exclusive = 1>(x, a)
        }
        """,
    ),
    "reduce_axes": (
        21,
        """
        agraph (float[2, 3, 6, 5] x) => (float[2, 1, 6, 1] y) {
          a = Constant<value_ints = [-1, 1]>()
          y = ReduceLogSumExp(x, a)
        }
        """,
    ),
    "hann": (
        21,
        """
        agraph (float[10] x) => (float[10] y) {
          n = Constant<value_int = 10>()
          w = HannWindow<periodic = 0>(n)
          y = Mul(x, w)
        }
        """,
    ),
    "stft": (
        21,
        """
        agraph (float[2, 40, 1] x) => (float[2, 7, 9, 2] y) {
          st = Constant<value_int = 4>()
          l = Constant<value_int = 16>()
          w = HammingWindow(l)
          y = STFT(x, st, w, l)
        }
        """,
    ),
    "lp_pool": (
        18,
        """
        agraph (float[2, 3, 6, 5] x) => (float[2, 3, 3, 2] y) {
          y = LpPool<kernel_shape = [2, 3], strides = [2, 2], p = 3, pads = [0, 0, 0, 1]>(x)
        }
        """,
    ),
    "global_lp_pool": (
        2,
        """
        agraph (float[2, 3, 6, 5] x) => (float[2, 3, 1, 1] y) {
          y = GlobalLpPool<p = 3>(x)
        }
        """,
    ),
    "average_pool_same": (
        21,
        """
        agraph (float[2, 3, 6, 5] x) => (float[2, 3, 3, 3] y) {
          y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER">(x)
        }
        """,
    ),
    "max_pool_ceil": (
        21,
        """
        agraph (float[2, 3, 6, 5] x) => (float[2, 3, 3, 2] y) {
          y = MaxPool<kernel_shape = [2, 3], strides = [2, 2], ceil_mode = 1>(x)
        }
        """,
    ),
    "conv_transpose_same": (
        21,
        """
        agraph (float[2, 3, 6, 5] x, float[3, 4, 3, 3] w) => (float[2, 4, 12, 10] y) {
          y = ConvTranspose<strides = [2, 2], auto_pad = "SAME_UPPER">(x, w)
        }
        """,
    ),
    "gemm": (
        21,
        """
        agraph (float[4, 3] a, float[5, 4] b, float[5] c) => (float[3, 5] y) {
          y = Gemm<transA = 1, transB = 1, alpha = 0.5, beta = 2.0>(a, b, c)
        }
        """,
    ),
    "matmul_vector": (
        21,
        """
        agraph (float[4] a, float[2, 4, 3] b) => (float[2, 3] y) {
          y = MatMul(a, b)
        }
        """,
    ),
    "einsum": (
        21,
        """
        agraph (float[2, 3, 4] a, float[2, 4, 5] b) => (float[2, 5, 3] y) {
          y = Einsum<equation = "bij,bjk->bki">(a, b)
        }
        """,
    ),
    "pad_reflect_axes": (
        21,
        """
        agraph (float[2, 3, 6, 5] x) => (float[2, 3, 9, 5] y) {
          p = Constant<value_ints = [1, 2]>()
          a = Constant<value_ints = [2]>()
          y = Pad<mode = "reflect">(x, p, , a)
        }
        """,
    ),
    "scatter_nd": (
        18,
        """
        agraph (float[4, 3] x, float[2, 3] u) => (float[4, 3] y) {
          i = Constant<value = int64[2, 1] {3, 0}>()
          y = ScatterND(x, i, u)
        }
        """,
    ),
    "one_hot": (
        21,
        """
        agraph (float[4] x) => (float[5, 4] y) {
          i = Constant<value_ints = [0, 2, 4, -1]>()
          d = Constant<value_int = 5>()
          v = Constant<value_floats = [-1.0, 2.0]>()
          o = OneHot<axis = 0>(i, d, v)
          y = Mul(o, x)
        }
        """,
    ),
    "hard_sigmoid_selu": (
        21,
        """
        agraph (float[2, 3, 6, 5] x) => (float[2, 3, 6, 5] y) {
          h = HardSigmoid(x)
          s = Selu(x)
          y = Mul(h, s)
        }
        """,
    ),
    "lrn_instance_norm": (
        21,
        """
        agraph (float[2, 3, 6, 5] x, float[3] s, float[3] b) => (float[2, 3, 6, 5] y) {
          h = InstanceNormalization(x, s, b)
          y = LRN<size = 3>(h)
        }
        """,
    ),
    "mean_variance": (
        13,
        """
        agraph (float[2, 3, 6, 5] x) => (float[2, 3, 6, 5] y) {
          y = MeanVarianceNormalization(x)
        }
        """,
    ),
    "lstm": (
        21,
        """
        agraph (float[5, 2, 3] x, float[2, 16, 3] w, float[2, 16, 4] r, float[2, 32] b)
          => (float[5, 2, 2, 4] y) {
          y = LSTM<hidden_size = 4, direction = "bidirectional">(x, w, r, b)
        }
        """,
    ),
    "gru_reset_after": (
        21,
        """
        agraph (float[5, 2, 3] x, float[1, 12, 3] w, float[1, 12, 4] r, float[1, 24] b)
          => (float[5, 1, 2, 4] y) {
          y = GRU<hidden_size = 4, linear_before_reset = 1>(x, w, r, b)
        }
        """,
    ),
    "rnn_relu_clip": (
        21,
        """
        agraph (float[5, 2, 3] x, float[1, 4, 3] w, float[1, 4, 4] r) => (float[5, 1, 2, 4] y) {
          y = RNN<hidden_size = 4, activations = ["Relu"], clip = 1.0>(x, w, r)
        }
        """,
    ),
    "roi_align": (
        16,
        """
        agraph (float[2, 3, 6, 5] x) => (float[2, 3, 2, 2] y) {
          r = Constant<value = float[2, 4] {0, 0, 4, 5, 1, 1, 3, 4}>()
          i = Constant<value_ints = [0, 1]>()
          y = RoiAlign<output_height = 2, output_width = 2, sampling_ratio = 2>(x, r, i)
        }
        """,
    ),
    "trilu_size": (
        21,
        """
        agraph (float[2, 3, 6, 5] x) => (float[2, 3, 6, 5] y) {
          k = Constant<value_int = -1>()
          t = Trilu(x, k)
          s = Size(x)
          f = Cast<to = 1>(s)
          y = Mul(t, f)
        }
        """,
    ),
    "space_depth": (
        13,
        """
        agraph (float[1, 8, 2, 4] x) => (float[1, 8, 2, 4] y) {
          d = DepthToSpace<blocksize = 2, mode = "CRD">(x)
          y = SpaceToDepth<blocksize = 2>(d)
        }
        """,
    ),
    "qdq": (
        21,
        """
        agraph (float[4, 6] x) => (float[4, 6] y) {
          s = Constant<value = float {0.05}>()
          z = Constant<value = int8 {3}>()
          q = QuantizeLinear(x, s, z)
          y = DequantizeLinear(q, s, z)
        }
        """,
    ),
    "is_inf_nan": (
        21,
        """
        agraph (float[2, 3, 6, 5] x) => (bool[2, 3, 6, 5] y) {
          l = Log(x)
          i = IsInf<detect_positive = 0>(l)
          n = IsNaN(l)
          y = Or(i, n)
        }
        """,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_matches_onnxruntime(name):
    opset, text = CASES[name]
    proto = model(text, opset)
    proto.ir_version = 9
    rng = np.random.default_rng(4)
    inputs = {
        i.name: rng.normal(size=[d.dim_value for d in i.type.tensor_type.shape.dim]).astype(
            np.float32
        )
        for i in proto.graph.input
    }
    assert not [n for n in check(proto).nodes if n.support != "native"]
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run(None, inputs)
    with np.errstate(all="ignore"):
        (y,) = run(proto, *inputs.values())
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y, expected, rtol=2e-4, atol=2e-5)


def test_random_operators_have_their_moments():
    text = (
        "agraph (float[100, 200] x) => (float[100, 200] y, float[100, 200] z) "
        "{ y = RandomNormalLike<mean = 2.0, scale = 3.0, seed = 1.0>(x) "
        "z = RandomUniform<low = -1.0, high = 3.0, shape = [100, 200]>() }"
    )
    y, z = run(model(text), normal(100, 200))
    np.testing.assert_allclose([y.mean(), y.std()], [2, 3], atol=0.1)
    np.testing.assert_allclose([z.mean(), z.min(), z.max()], [1, -1, 3], atol=0.1)
    np.testing.assert_array_equal(y, run(model(text), normal(100, 200))[0])
