"""Kernels that let the next one start before they have waited themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.backends.cuda.contractions import node_of
from tests.samples.sample import normal

from lamina.backends.cuda.assemble_ptx import with_early_release
from lamina.backends.cuda.tactics.matmul import TritonMatmul
from lamina.backends.cuda.target import TARGETS
from lamina.ops import Matmul
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

WAIT, RELEASE = "griddepcontrol.wait;", "griddepcontrol.launch_dependents;"


def test_release_and_wait_trade_places():
    text = f"mov.u32 %r1, 0;\n\t{WAIT} // one\n\tadd;\n\t{RELEASE}\n\tret;"
    wanted = f"mov.u32 %r1, 0;\n\t{RELEASE} // one\n\tadd;\n\t{WAIT}\n\tret;"
    assert with_early_release(text) == wanted
    assert with_early_release(wanted) == wanted


def test_memory_stays_behind_the_wait():
    text = f"{WAIT}\n\t@%p1 ld.global.b32 {{ %r1 }}, [ %rd1 + 0 ];\n\t{RELEASE}\n\tret;"
    assert with_early_release(text) == text


@pytest.mark.parametrize("text", [WAIT, RELEASE, WAIT + WAIT + RELEASE, WAIT + RELEASE + RELEASE])
def test_kernels_that_wait_or_release_in_other_ways_stay(text):
    assert with_early_release(text) == text


def test_machine_code():
    """The instructions of both kernels are the same, in another order."""
    triton_compile = pytest.importorskip("lamina.backends.cuda.triton_compile")
    node = node_of(Matmul(), [normal(16, 32, dtype=np.float16), normal(32, 16, dtype=np.float16)])
    (candidate, *_) = TritonMatmul().candidates(node, TARGETS[90])
    operands = tuple(layout(v.tensor, Form.PLAIN) for v in node.inputs)
    results = (layout(node.output.tensor, Form.PLAIN),)
    (launch,) = candidate.draft(Placement(operands, results, "")).launches
    assert launch.kernel.dependent and not launch.kernel.releases_early
    late = triton_compile.compile_request(launch.kernel, 90)
    early = triton_compile.compile_request(replace(launch.kernel, releases_early=True), 90)
    assert late.cubin != early.cubin and len(late.cubin) == len(early.cubin)
    assert replace(late, cubin=b"") == replace(early, cubin=b"")
    assert launch.kernel.digest() != replace(launch.kernel, releases_early=True).digest()
