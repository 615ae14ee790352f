"""Older opsets express the same operators in other ways."""

import numpy as np
import pytest

from tests.importers.models import model, normal, run


def check(text, opset, inputs, expected, rtol=1e-5):
    (y,) = run(model(text, opset), *inputs)
    np.testing.assert_allclose(y, expected, rtol=rtol, atol=1e-6)
    assert y.dtype == np.asarray(expected).dtype


X = normal(2, 3, 4, 5)


def test_broadcast_attribute_before_opset_7():
    b = normal(3, 4, seed=1)
    text = (
        "agraph (float[2, 3, 4, 5] x, float[3, 4] b) => (float[2, 3, 4, 5] y) "
        "{ y = Add<axis = 1, broadcast = 1>(x, b) }"
    )
    check(text, 6, [X, b], X + b[:, :, None])


def test_prelu_slope_per_channel_before_opset_7():
    slope = normal(3, seed=1)
    text = "agraph (float[2, 3, 4, 5] x, float[3] s) => (float[2, 3, 4, 5] y) { y = PRelu(x, s) }"
    check(text, 6, [X, slope], np.where(X > 0, X, X * slope[:, None, None]))


def test_reshape_with_an_attribute():
    text = "agraph (float[2, 3, 4, 5] x) => (float y) { y = Reshape<shape = [0, -1]>(x) }"
    check(text.replace("float y", "float[2, 60] y"), 1, [X], X.reshape(2, -1))


@pytest.mark.parametrize(("opset", "name"), [(1, "paddings"), (2, "pads")])
def test_pad_with_attributes(opset, name):
    text = (
        "agraph (float[3, 4] x) => (float[5, 6] y) "
        f'{{ y = Pad<mode = "constant", {name} = [1, 0, 1, 2], value = 7.0>(x) }}'
    )
    x = normal(3, 4)
    check(text, opset, [x], np.pad(x, ((1, 1), (0, 2)), constant_values=np.float32(7)))


def test_clip_slice_topk_and_split_with_attributes():
    x = normal(4, 6)
    check(
        "agraph (float[4, 6] x) => (float[4, 6] y) { y = Clip<min = -0.5, max = 0.5>(x) }",
        6, [x], np.clip(x, -0.5, 0.5),
    )  # fmt: skip
    check(
        "agraph (float[4, 6] x) => (float[2, 6] y) "
        "{ y = Slice<starts = [-3], ends = [2000000000], axes = [0]>(x) }",
        1, [x], x[-3:],
    )  # fmt: skip
    check(
        "agraph (float[4, 6] x) => (float[4, 2] y) { y, i = TopK<k = 2>(x) }",
        1, [x], -np.sort(-x, axis=1)[:, :2],
    )  # fmt: skip
    check(
        "agraph (float[4, 6] x) => (float[4, 4] y) { a, y = Split<axis = 1, split = [2, 4]>(x) }",
        2, [x], x[:, 2:],
    )  # fmt: skip


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
def test_softmax_over_everything_from_an_axis_on(name):
    flat = X.reshape(2, -1)
    e = np.exp(flat - flat.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    expected = (np.log(p) if name == "LogSoftmax" else p).reshape(X.shape)
    text = f"agraph (float[2, 3, 4, 5] x) => (float[2, 3, 4, 5] y) {{ y = {name}(x) }}"
    check(text, 11, [X], expected)


def test_hardmax_over_everything_from_an_axis_on():
    flat = X.reshape(2, -1)
    expected = np.zeros_like(flat)
    expected[np.arange(2), flat.argmax(1)] = 1
    text = "agraph (float[2, 3, 4, 5] x) => (float[2, 3, 4, 5] y) { y = Hardmax(x) }"
    check(text, 11, [X], expected.reshape(X.shape))


def test_squeeze_and_unsqueeze_with_attributes():
    x = normal(1, 3, 1)
    check(
        "agraph (float[1, 3, 1] x) => (float[3] y) { y = Squeeze<axes = [0, 2]>(x) }",
        11, [x], x.reshape(3),
    )  # fmt: skip
    check(
        "agraph (float[1, 3, 1] x) => (float[1, 1, 3, 1, 1] y) { y = Unsqueeze<axes = [0, 4]>(x) }",
        11, [x], x.reshape(1, 1, 3, 1, 1),
    )  # fmt: skip


@pytest.mark.parametrize("opset", [7, 9])
def test_upsample_in_both_forms(opset):
    x = normal(1, 2, 2, 3)
    expected = x.repeat(2, 2).repeat(3, 3)
    if opset == 7:
        text = (
            "agraph (float[1, 2, 2, 3] x) => (float[1, 2, 4, 9] y) "
            '{ y = Upsample<mode = "nearest", scales = [1.0, 1.0, 2.0, 3.0]>(x) }'
        )
    else:
        text = (
            "agraph (float[1, 2, 2, 3] x) => (float[1, 2, 4, 9] y) "
            "{ s = Constant<value = float[4] {1.0, 1.0, 2.0, 3.0}>() y = Upsample(x, s) }"
        )
    check(text, opset, [x], expected)


def test_group_normalization_with_scales_per_group():
    scale, bias = normal(2, seed=1), normal(2, seed=2)
    x = normal(2, 6, 5)
    g = x.reshape(2, 2, -1)
    y = (g - g.mean(2, keepdims=True)) / np.sqrt(g.var(2, keepdims=True) + 1e-5)
    y = y * scale[:, None] + bias[:, None]
    text = (
        "agraph (float[2, 6, 5] x, float[2] s, float[2] b) => (float[2, 6, 5] y) "
        "{ y = GroupNormalization<num_groups = 2>(x, s, b) }"
    )
    check(text, 18, [x, scale, bias], y.reshape(x.shape), 1e-4)


def test_operators_from_before_the_first_standard():
    x = normal(1, 2, 3, 3)
    check(
        "agraph (float[1, 2, 3, 3] x) => (float[1, 2, 3, 3] y) "
        "{ y = ImageScaler<scale = 2.0, bias = [1.0, -1.0]>(x) }",
        1, [x], x * np.float32(2) + np.float32([1, -1]).reshape(2, 1, 1),
    )  # fmt: skip
    check(
        "agraph (float[1, 2, 3, 3] x) => (float[1, 2, 3, 3] y) "
        "{ y = ParametricSoftplus<alpha = 0.5, beta = 2.0>(x) }",
        1, [x], (0.5 * np.log1p(np.exp(2 * x))).astype(np.float32),
    )  # fmt: skip
    check(
        "agraph (float[1, 2, 3, 3] x) => (float[1, 2, 3, 3] y) "
        "{ y = ScaledTanh<alpha = 2.0, beta = 0.5>(x) }",
        1, [x], (2 * np.tanh(0.5 * x)).astype(np.float32),
    )  # fmt: skip


def test_dropout_mask_is_bool_since_opset_10():
    for opset, dtype in ((7, np.float32), (10, np.bool_)):
        kind = "float" if opset == 7 else "bool"
        text = f"agraph (float[3] x) => (float[3] y, {kind}[3] m) {{ y, m = Dropout(x) }}"
        x = normal(3)
        y, mask = run(model(text, opset), x)
        np.testing.assert_array_equal(y, x)
        assert mask.dtype == dtype
        assert mask.all()


def test_batch_normalization_before_opset_9():
    x = normal(2, 3, 4)
    s, b, m, v = (normal(3, seed=i) for i in range(1, 5))
    v = np.abs(v)
    text = (
        "agraph (float[2, 3, 4] x, float[3] s, float[3] b, float[3] m, float[3] v) "
        "=> (float[2, 3, 4] y) "
        "{ y = BatchNormalization<epsilon = 0.01, is_test = 1>(x, s, b, m, v) }"
    )
    c = (slice(None), None)
    check(text, 6, [x, s, b, m, v], (x - m[c]) / np.sqrt(v[c] + np.float32(0.01)) * s[c] + b[c])
