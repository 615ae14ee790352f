"""Specifications survive JSON; anything else is a PlanError."""

from __future__ import annotations

import json

import pytest

from lamina.backends.cpu.onednn import (
    attributes,
    convolution,
    elementwise,
    matmul,
    normalization,
    pooling,
    reorder,
    rnn,
    serialization,
)
from lamina.backends.cpu.onednn.memory import Layout
from lamina.errors import PlanError

D = Layout.dense
X = D((2, 16, 4, 4))
EVERYTHING = attributes.Attributes(
    (
        attributes.EltwisePostOp("clip", 0.0, 6.0),
        attributes.SumPostOp(0.5, 3, "u8"),
        attributes.BinaryPostOp("mul", D((1, 16, 1, 1))),
        attributes.PReluPostOp(D((1, 16, 1, 1))),
        attributes.DepthwisePostOp(3, 2, 1),
    ),
    (attributes.Scale("src"), attributes.Scale("weights", 1, 16)),
    (attributes.ZeroPoint("src"),),
    "bf16",
)
SPECS = [
    convolution.Convolution(
        Layout.channels_last((1, 8, 5, 5), "u8").within((1, 32, 5, 5)),
        Layout.any((16, 8, 3, 3), "i8"),
        Layout.blocked((1, 16, 3, 3), 16, "bf16").within((1, 48, 3, 3)),
        D((16,)), (2, 2), (1, 1), (0, 1), (1, 0), "auto", EVERYTHING,
    ),
    convolution.Deconvolution(X, Layout.any((8, 16, 3, 3)), D((2, 8, 6, 6))),
    matmul.MatMul(D((4, 8)), Layout.any((8, 16)), D((4, 16)), D((1, 16))),
    matmul.InnerProduct(X, Layout.any((8, 16, 4, 4)), D((2, 8))),
    pooling.Pooling(X, D((2, 16, 2, 2)), (2, 2), (2, 2), algorithm="average_exclude_padding"),
    pooling.Resampling(X, D((2, 16, 8, 8)), "nearest"),
    reorder.Reorder(X, Layout.blocked((2, 16, 4, 4), 16)),
    rnn.Recurrent(
        "lstm", D((3, 2, 5)), Layout.any((1, 1, 5, 4, 8)), Layout.any((1, 1, 8, 4, 8)),
        D((3, 2, 8)), dst_iter=D((1, 1, 2, 8)), dst_iter_c=D((1, 1, 2, 8)),
    ),
    normalization.Softmax(X, X, 1, "logsoftmax"),
    normalization.LayerNormalization(X, X, 1e-3, has_shift=False),
    normalization.BatchNormalization(X, X, fuse_relu=True),
    normalization.LocalResponseNormalization(X, X, 5),
    elementwise.Binary("max", X, D((1, 16, 1, 1)), X),
    elementwise.Eltwise("elu", X, X, 1.5),
    elementwise.PRelu(X, D((1, 16, 1, 1)), X),
    elementwise.Sum((X, X), X, (1.0, 2.0)),
    elementwise.Concat((X, X), D((2, 32, 4, 4)), 1),
    elementwise.Reduction("mean", X, D((2, 16, 1, 1))),
    elementwise.Shuffle(X, X, 1, 4),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: type(s).__name__)
def test_json_round_trip(spec):
    text = json.dumps(serialization.to_json(spec))
    again = serialization.from_json(json.loads(text))
    assert again == spec and hash(again) == hash(spec)
    assert json.dumps(serialization.to_json(again)) == text


def test_every_family_is_in_this_test():
    assert {type(spec).__name__ for spec in SPECS} == set(serialization.FAMILIES)


@pytest.mark.parametrize(
    "rubbish",
    [
        {},
        {"kind": "Convolution"},
        {"kind": "Layout", "dims": [1]},
        {"kind": "os.system"},
        {"kind": "MatMul", "source": 1},
        {"kind": "Eltwise", "algorithm": "relu", "src": {"kind": "Layout", "dims": []}},
        {"kind": ["x"]},
    ],
    ids=str,
)
def test_rubbish_is_a_plan_error(rubbish):
    with pytest.raises(PlanError, match="oneDNN specification"):
        serialization.from_json(rubbish)
