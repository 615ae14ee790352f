"""Chains of pointwise convolutions past which pixels stream: meaning, code, what is declined."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.fused import Network, chain, check, offered
from tests.backends.cuda.test_contractions_compile import assembly

from lamina.backends.cuda.request import directed
from lamina.backends.cuda.tactics import streamed
from lamina.backends.cuda.tactics.stages import stages_of
from lamina.backends.cuda.tactics.streamed import StreamedChain
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.ir.dims import sym
from lamina.ir.pattern import Reject

H200 = TARGETS[90]
FEW = replace(H200, sms=2)
CHAINS = {
    "middle and back": {"back": 24},
    "shortcut": {"back": 64, "shortcut": 1},
    "shortcut alone": {"back": 0, "shortcut": 1},
}


@pytest.fixture
def few_tiles(monkeypatch):
    monkeypatch.setattr(streamed, "_FEWEST_TILES", 0)


def turned(candidate, *, backwards):
    def draft(at):
        return directed(candidate.draft(at), backwards=backwards)

    return replace(candidate, draft=draft)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("which", CHAINS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_chains(few_tiles, which, dtype, backwards):
    net, node = chain(4, 13, 40, 136, dtype=dtype, **CHAINS[which])
    (candidate,) = offered(StreamedChain(), node, FEW)
    check(net, node, turned(candidate, backwards=backwards), gap=8)


def test_a_first_convolution_that_adds_nothing_is_one_in_front(few_tiles):
    net = Network()
    net.convolution(net.convolution(net.image(1, 136, 9, 9), 64), 48)
    node = net.region(net.nodes[-1].output)
    assert isinstance(StreamedChain().candidates(node, FEW), Reject)


def test_any_batch(few_tiles):
    net, node = chain(3, 8, 72, 64, back=16, symbolic=sym("n"))
    (candidate,) = offered(StreamedChain(), node, replace(FEW, env={"n": 2}))
    check(net, node, candidate, env={"n": 3})


@pytest.mark.parametrize("shortcut", [0, 1])
def test_compiles_without_waiting_for_products(shortcut, tmp_path):
    _, node = chain(8, 112, 64, 256, back=64, shortcut=shortcut)
    (candidate,) = offered(StreamedChain(), node, H200)
    (launch,) = candidate.draft(stages_of(node).dense).launches
    _, _, text = assembly(compile_request(launch.kernel, 90), tmp_path)
    # The assembler makes products wait for each other where it does not see that they need not.
    assert text.count("WARPGROUP.DEPBAR") <= text.count("HGMMA") / 2


@pytest.mark.parametrize(
    "options, why",
    [
        ({"dtype": np.float32}, "16 bits"),
        ({"back": 72}, "more than 64 filters"),
        ({"wide": 320}, "shared memory"),
        ({"front": 3}, "not pointwise"),
        ({"shortcut": 2}, "not pointwise"),
        ({"size": 20}, "too few tiles"),
    ],
)
def test_declines(options, why):
    given = {"n": 16, "size": 128, "channels": 64, "wide": 256, "back": 64} | options
    _, node = chain(**given)
    reason = StreamedChain().candidates(node, H200)
    assert isinstance(reason, Reject) and why in str(reason)
    assert isinstance(StreamedChain().candidates(node, TARGETS[100]), Reject)
