"""Products of programs in pairs: meaning, what their marks become, code of Hopper.

The interpreter gives both programs' memory to the copies and arrivals that are marked, and finds
deadlocks and early reads; layouts and the order of memory show on a GPU only.
"""

from __future__ import annotations

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import compare, node_of, run_candidate
from tests.backends.cuda.test_contractions_compile import assembly
from tests.samples.sample import normal

from lamina.backends.cuda.kernels.pairing import BEGIN, END, MEET, has_pairs, with_pairs
from lamina.backends.cuda.request import directed
from lamina.backends.cuda.tactics import specialized
from lamina.backends.cuda.tactics.matmul_case import matmul_case
from lamina.backends.cuda.tactics.specialized import TritonMatmulSpecialized
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.codegen.layout import Layout
from lamina.errors import BuildError
from lamina.ops import Matmul
from lamina.tactics.candidate import Placement

COPY = (
    "@%p7 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
    " [%r90], [%rd3, {%r96, %r91}], [%r88];"
)
ARRIVAL = "@%p5 mbarrier.arrive.shared::cta.b64 _, [%r30];"
TEXT = f"""
.visible .entry kernel(
\t.param .u64 kernel_param_0
)
.reqntid 512
{{
\t.reg .pred \t%p<9>;
\t.reg .b32 \t%r<99>;

\t{MEET}
\t{COPY}
\t{BEGIN}
\t// end inline asm
\t{COPY}
\t{END}
\t{BEGIN}
\t{ARRIVAL}
\t{END}
\t{ARRIVAL}
\tret;
}}
"""


PAIRS = tuple(replace(specialized.SHAPES[0], paired=shared) for shared in ("a", "b"))


@pytest.fixture
def offer(monkeypatch):
    """Return a function that lets the tactic offer one shape."""
    monkeypatch.setattr(specialized, "_FEWEST_TILES", 1)
    return lambda shape: monkeypatch.setattr(
        specialized, "offered_shapes", lambda *_, **__: [shape]
    )


def product(rows, depth, dtype):
    """Return operands and their product with bias and residual."""
    shapes = [(rows, depth), (depth, 520), (520,), (rows, 520)]
    given = [normal(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes)]
    return given, node_of(Matmul(), given)


@pytest.mark.parametrize("shape", PAIRS, ids=str)
@pytest.mark.parametrize(
    "rows, depth, sms, dtype", [(130, 136, 5, ml_dtypes.bfloat16), (300, 200, 2, np.float16)]
)
def test_both_programs_get_what_they_share(offer, shape, rows, depth, sms, dtype):
    """Odd rows and columns of tiles, one tile a program and more, an odd number of processors."""
    offer(shape)
    given, node = product(rows, depth, dtype)
    (candidate,) = TritonMatmulSpecialized().candidates(node, replace(TARGETS[90], sms=sms))
    got = run_candidate(node, candidate, given)
    compare(got, Matmul().reference(*given), candidate.tactic)


@pytest.mark.parametrize("shared", ["", "a", "b"])
def test_from_the_last_tile_on(offer, shared):
    offer(replace(specialized.SHAPES[0], paired=shared))
    given, node = product(300, 200, np.float16)
    (candidate,) = TritonMatmulSpecialized().candidates(node, replace(TARGETS[90], sms=4))
    got = run_candidate(
        node,
        replace(candidate, draft=lambda at: directed(candidate.draft(at), backwards=True)),
        given,
    )
    compare(got, Matmul().reference(*given), candidate.tactic)


@pytest.mark.parametrize(
    "rows, columns, shared",
    [(12608, 2304, "b"), (12608, 3072, "a"), (12288, 3072, "b"), (12608, 1024, "a")],
)
def test_pairs_share_what_leaves_few_rounds(rows, columns, shared):
    """Of 99 rows of tiles, which make 50 pairs, one more round may be left over."""
    node = node_of(
        Matmul(), [np.zeros((rows, 768), np.float16), np.zeros((768, columns), np.float16)]
    )
    case = matmul_case(node, TARGETS[90])
    shapes = specialized.offered_shapes(case.work, TARGETS[90], activated=False)
    assert [(s.columns, s.paired) for s in shapes] == [(256, shared), (256, ""), (192, "")]
    activated = specialized.offered_shapes(case.work, TARGETS[90], activated=True)
    assert not any(s.paired for s in activated)


def test_marked_instructions_reach_both():
    assert has_pairs(TEXT)
    text = with_pairs(TEXT, 4)
    assert text.count(".multicast::cluster [%r90], [%rd3, {%r96, %r91}], [%r88], both;") == 1
    assert text.count(COPY) == 1
    assert text.count(ARRIVAL) == 2
    assert text.count("@%p5 mbarrier.arrive.shared::cluster.b64 _, [other];") == 1
    assert text.count("mapa.shared::cluster.u32 other, %r30, other;") == 1
    assert ".reqntid 512\n.reqnctapercluster 2, 1, 1\n" in text
    assert text.index(".reg .b32") < text.index("ge.u32 others, thread, 128;") < text.index(MEET)
    assert not has_pairs(text)


@pytest.mark.parametrize(
    "old, new, why",
    [
        (MEET, "", "do not meet"),
        (ARRIVAL, "", "nothing is marked"),
        (COPY, COPY.replace("2d", "im2col"), "nothing is marked"),
        (END, "", "stands alone"),
        (".reqntid 512", "", "does not begin"),
    ],
)
def test_unknown_text_is_an_error(old, new, why):
    with pytest.raises(BuildError, match=why):
        with_pairs(TEXT.replace(old, new), 4)


@pytest.mark.parametrize("shape", PAIRS, ids=str)
def test_code_of_pairs(offer, shape, tmp_path):
    offer(shape)
    given = [np.zeros(s, np.float16) for s in ((3001, 520), (520, 1032))]
    node = node_of(Matmul(), given)
    dense = Placement(
        tuple(Layout.dense(v.tensor.shape) for v in node.inputs),
        (Layout.dense(node.output.tensor.shape),),
        "",
    )
    (candidate,) = TritonMatmulSpecialized().candidates(node, TARGETS[90])
    assert f"pairs share {shape.paired}" in candidate.tactic
    (launch,) = candidate.draft(dense).launches
    assert launch.grid[0] % 2 == 0
    code = compile_request(launch.kernel, 90)
    registers, stack, text = assembly(code, tmp_path)
    assert stack == 0
    assert registers * code.warps * 32 <= 65536
    boxes = {"a": 2, "b": 4}[shape.paired]
    assert len(re.findall(r"UTMALDG\.2D\.MULTICAST", text)) == boxes
    # Two groups multiply; each frees buffers within a tile and at its end.
    assert len(re.findall(r"SYNCS\.ARRIVE\.TRANS64\.RED\.A1T0", text)) == 4
    assert "UCGABAR_WAIT" in text
