"""Sums of two convolutions by specialized warps: meaning, code of Hopper, what is declined."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.fused import Network, chain, check, offered
from tests.backends.cuda.test_contractions_compile import assembly

from lamina.backends.cuda.request import directed
from lamina.backends.cuda.tactics import specialized_pair
from lamina.backends.cuda.tactics.specialized_pair import SpecializedPair
from lamina.backends.cuda.tactics.stages import stages_of
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.ir.pattern import Reject

H200 = TARGETS[90]


@pytest.fixture
def few_tiles(monkeypatch):
    monkeypatch.setattr(specialized_pair, "FEWEST_TILES", 1)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
def test_pairs(few_tiles, stride, dtype, backwards):
    net, node = chain(3, 7, 64, 136, back=0, dtype=dtype, shortcut=stride)
    for candidate in offered(SpecializedPair(), node, replace(H200, sms=3)):
        turned = replace(
            candidate, draft=lambda at, c=candidate: directed(c.draft(at), backwards=backwards)
        )
        check(net, node, turned, gap=8)


def test_windows_and_single_pixels(few_tiles):
    net = Network()
    x, z = net.image(1, 128, 6, 6), net.image(1, 64, 12, 12)
    other = net.convolution(z, 128, stride=2, activation=None)
    node = net.region(net.convolution(x, 128, taps=3, residual=other))
    check(net, node, offered(SpecializedPair(), node, H200)[0])


def test_compiles_without_spilling(tmp_path):
    _, node = chain(32, 14, 256, 1024, back=0, shortcut=2)
    for candidate in offered(SpecializedPair(), node, H200):
        (launch,) = candidate.draft(stages_of(node).dense).launches
        _, spilled, text = assembly(compile_request(launch.kernel, 90), tmp_path)
        assert not spilled, candidate.tactic
        # The assembler makes products wait for each other where it sees no reason not to.
        assert text.count("WARPGROUP.DEPBAR") <= text.count("HGMMA") / 2


@pytest.mark.parametrize(
    "options, why",
    [
        ({"dtype": np.float32}, "16 bits"),
        ({"channels": 48}, "multiple of 64"),
        ({"wide": 64}, "few filters"),
        ({"size": 4}, "few tiles"),
        ({"back": 16}, "one sum"),
    ],
)
def test_declines(options, why):
    given = {"n": 8, "size": 32, "channels": 64, "wide": 128, "back": 0, "shortcut": 1} | options
    _, node = chain(**given)
    reason = SpecializedPair().candidates(node, H200)
    assert isinstance(reason, Reject) and why in str(reason)
    assert isinstance(SpecializedPair().candidates(node, TARGETS[100]), Reject)
