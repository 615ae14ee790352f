"""Contraction kernels compile for every architecture, on 9.0 to the code they are meant to be."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import triton
from tests.backends.cuda.contractions import node_of

from lamina.backends.cuda.tactics.convolution import TritonConvolution, TritonConvolutionBoxes
from lamina.backends.cuda.tactics.depthwise import TritonDepthwise
from lamina.backends.cuda.tactics.direct import TritonDirect
from lamina.backends.cuda.tactics.few_channels import TritonFewChannels
from lamina.backends.cuda.tactics.matmul import TritonMatmul, TritonMatmulBoxes, TritonMatvec
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.ir.types import DType
from lamina.ops import ActivationKind, Convolution, Epilogue, Matmul, QuantizedConvolution, Scaling
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

GELU = Epilogue(ActivationKind.GELU)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def empty(*shape, dtype=np.float16):
    return np.zeros(shape, dtype)


def window(kind=Convolution, taps=3, stride=1, **more):
    pad = (taps // 2,) * 2
    return kind(
        strides=(stride,) * 2, dilations=(1, 1), pads_begin=pad, pads_end=pad, activation=GELU,
        **more,
    )  # fmt: skip


INTEGERS = {"x_scaling": Scaling(0.1), "dtype": DType.I8, "y_scaling": Scaling(0.1)}
IMAGE = empty(32, 64, 28, 28)
PROBLEMS = {
    "product": (TritonMatmul, Matmul(activation=GELU), [empty(4096, 768), empty(768, 768)]),
    "split": (TritonMatmul, Matmul(), [empty(16, 2048), empty(2048, 256), empty(256)]),
    "boxes": (TritonMatmulBoxes, Matmul(), [empty(4096, 768), empty(768, 768), empty(768)]),
    "vector": (TritonMatvec, Matmul(), [empty(1, 2048), empty(2048, 1000), empty(1000)]),
    "windows": (TritonConvolution, window(), [IMAGE, empty(64, 64, 3, 3), empty(64), IMAGE]),
    "windows boxes": (TritonConvolutionBoxes, window(), [IMAGE, empty(64, 64, 3, 3), empty(64)]),
    "depthwise": (TritonDepthwise, window(groups=64), [IMAGE, empty(64, 1, 3, 3), empty(64)]),
    "groups": (TritonDirect, window(groups=32), [IMAGE, empty(64, 2, 3, 3), empty(64)]),
    "first": (
        TritonFewChannels, window(taps=7, stride=2), [empty(8, 3, 64, 64), empty(64, 3, 7, 7)],
    ),
    "integers": (
        TritonConvolution, window(QuantizedConvolution, **INTEGERS),
        [IMAGE.astype(np.int8), empty(64, 64, 3, 3, dtype=np.int8),
         empty(64, dtype=np.float32), empty(64, dtype=np.float32)],
    ),
}  # fmt: skip
FEWER = ("product", "windows", "depthwise", "groups", "first", "integers")


def compiled(name, arch, most=1, pick=""):
    """Return name and code of the candidates that promise most."""
    tactic, op, given = PROBLEMS[name]
    node = node_of(op, given)
    offered = tactic().candidates(node, TARGETS[arch])
    assert isinstance(offered, list), offered
    found = []
    picked = [c for c in offered if pick in c.tactic]
    for c in sorted(picked, key=lambda c: c.estimate_microseconds)[:most]:
        forms = [f or Form.PLAIN for f in c.reads]
        operands = [layout(v.tensor, f) for v, f in zip(node.inputs, forms, strict=True)]
        result = layout(node.output.tensor, c.writes[0])
        draft = c.draft(Placement(tuple(operands), (result,), ""))
        found += [(c.tactic, compile_request(launch.kernel, arch)) for launch in draft.launches]
    return found


def assembly(code, folder):
    """Return registers and stack of a kernel and its instructions."""
    path = folder / "kernel.cubin"
    path.write_bytes(code.cubin)

    def ask(what):
        command = [str(TOOLS / "cuobjdump"), what, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    usage = re.search(r"REG:(\d+) STACK:(\d+)", ask("-res-usage"))
    return int(usage[1]), int(usage[2]), ask("-sass")


@pytest.mark.parametrize(
    "name, arch",
    [(name, arch) for name in FEWER for arch in (75, 80, 100) if (name, arch) != ("integers", 75)],
)
def test_compiles(name, arch):
    for tactic, code in compiled(name, arch):
        assert code.shared_bytes <= TARGETS[arch].shared_bytes, tactic


def test_boxes_compile_for_blackwell():
    assert compiled("boxes", 100)


@pytest.mark.parametrize(
    "name, pick, instructions",
    [
        ("product", "", ("HGMMA", "LDGSTS")),
        ("split", "split", ("LDGSTS", "CCTL.E.PF2")),
        ("boxes", "", ("HGMMA", "UTMALDG")),
        ("vector", "", ("LDG.E.128",)),
        ("windows", "", ("HGMMA", "LDGSTS", "STG.E.128")),
        ("windows boxes", "", ("HGMMA", "UTMALDG")),
        ("depthwise", "", ("FFMA",)),
        ("groups", "", ("FFMA",)),
        ("first", "128x64x32 w4 s2 words", ("HGMMA",)),
        ("integers", "", ("IGMMA",)),
    ],
)
def test_code_of_hopper(name, pick, instructions, tmp_path):
    for tactic, code in compiled(name, 90, pick=pick):
        assert code.shared_bytes <= TARGETS[90].shared_bytes, tactic
        _, stack, text = assembly(code, tmp_path)
        assert stack == 0, f"{tactic} spills registers"
        for instruction in instructions:
            assert instruction in text, (tactic, instruction)


@pytest.mark.parametrize("name", ["product", "windows"])
def test_places_are_known_before_the_wait(name, tmp_path):
    """What a program computes behind ``griddepcontrol.wait`` delays its first load."""
    for tactic, code in compiled(name, 90):
        text = assembly(code, tmp_path)[2]
        found = [m[1] for m in re.finditer(r"/\*[0-9a-f]{4}\*/\s+(?:@!?U?P\d+ )?(\w+)", text)]
        wait = found.index("ACQBULK")
        first = found.index("LDGSTS", wait)
        assert first - wait < 100, tactic
        assert wait > 50, tactic
