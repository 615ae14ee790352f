"""Text by which kernels mark instructions that pairs of programs share, and what becomes of it.

Gluon neither copies into the memory of another program nor signals its barriers.  Kernels of pairs
mark copies and arrivals, and in the PTX these become ones that reach both programs of a cluster
(PTX ISA, ``cp.async.bulk.tensor`` with ``.multicast::cluster``, and ``mapa``).
"""

from __future__ import annotations

import re
from typing import Final

from lamina.errors import BuildError

BEGIN: Final = "// lamina: both programs begin"
END: Final = "// lamina: both programs end"
MEET: Final = """fence.mbarrier_init.release.cluster;
    barrier.cluster.arrive.relaxed.aligned;
    barrier.cluster.wait.acquire.aligned; // lamina: both programs meet"""
"""Barriers that threads of a group have made are known to both programs behind it."""

_WARP: Final = 32
_REGION: Final = re.compile(f"{BEGIN}(.*?){END}", re.DOTALL)
_COPY: Final = re.compile(
    r"^\s*(@%p\d+ cp\.async\.bulk\.tensor\.\dd\.shared::cluster\.global"
    r"\.mbarrier::complete_tx::bytes)( \[[^;]*\]);$",
    re.MULTILINE,
)
_COPY_TO_BOTH: Final = r"""
	{
	.reg .b16 both;
	mov.b16 both, 3;
	\1.multicast::cluster\2, both;
	}"""
_ARRIVAL: Final = re.compile(
    r"^\s*(@%p\d+ mbarrier\.arrive)\.shared::cta(\.b64 _, \[)(%r\d+)(\]);$", re.MULTILINE
)
_ARRIVAL_AT_BOTH: Final = r"""
	{
	.reg .b32 other;
	mov.u32 other, %cluster_ctarank;
	xor.b32 other, other, 1;
	mapa.shared::cluster.u32 other, \3, other;
	\1.shared::cta\2\3\4;
	\1.shared::cluster\2other\4;
	}"""
"""Like every wait for a barrier the arrival orders nothing beyond the programs themselves: what it
announces is that shared memory was read."""
_THREADS: Final = re.compile(r"^\.reqntid \d+$", re.MULTILINE)
_BODY: Final = re.compile(r"^\{\n((?:\s*\.reg [^\n]*\n)*)", re.MULTILINE)
_OTHERS_MEET: Final = """	{{
	.reg .pred others;
	.reg .b32 thread;
	mov.u32 thread, %tid.x;
	setp.ge.u32 others, thread, {first};
	@!others bra.uni FIRST;
	barrier.cluster.arrive.relaxed.aligned;
FIRST:
	}}
"""


def has_pairs(text: str) -> bool:
    """Whether PTX has marks of instructions that reach both programs of a pair."""
    return BEGIN in text


def with_pairs(text: str, warps: int) -> str:
    """Return PTX for clusters of two programs in which marked instructions reach both.

    The first ``warps`` warps meet those of the other program where the kernel says so, the rest,
    which work for them later, when they start.  Raises BuildError where something marked is not
    what is known here.
    """

    def both(region: re.Match[str]) -> str:
        changed, copies = _COPY.subn(_COPY_TO_BOTH, region[1])
        changed, arrivals = _ARRIVAL.subn(_ARRIVAL_AT_BOTH, changed)
        if not copies + arrivals:
            raise BuildError("nothing is marked for both programs of a pair where a mark begins")
        return changed

    if text.count(MEET.splitlines()[-1].strip()) != 1:
        raise BuildError("the programs of a pair do not meet once")
    text = _REGION.sub(both, text)
    if BEGIN in text or END in text:
        raise BuildError("a mark of instructions for both programs of a pair stands alone")
    text, bodies = _BODY.subn(
        lambda body: body[0] + _OTHERS_MEET.format(first=warps * _WARP), text, count=1
    )
    text, kernels = _THREADS.subn(r"\g<0>" + "\n.reqnctapercluster 2, 1, 1", text)
    if bodies != 1 or kernels != 1:
        raise BuildError("a kernel of pairs does not begin as expected")
    return text
