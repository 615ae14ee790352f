"""Runs the launches of CUDA drafts in Triton's interpreter, on NumPy arrays.

A draft of a library runs in the library's stand-in.
"""

from __future__ import annotations

import numpy as np
from tests.backends.cuda.libraries import stand_in

from lamina.backends.cuda.interpret import run_kernel
from lamina.backends.cuda.library.steps import sized
from lamina.backends.cuda.request import Boxes, Counters, LibraryDraft, Scalar
from lamina.backends.cuda.tensor_maps import Described, map_of
from lamina.ir.dims import evaluate
from lamina.tactics.candidate import Blob, Packed, Read, Scratch, Write

POISON = 0xA5


def described(boxes, env):
    """Return what the copy engine would be told, but for what only the compiler knows."""
    return map_of(boxes.element, boxes.sizes, boxes.strides, (1,) * len(boxes.sizes), 0, env)


def run(draft, operands, results, env=None, blobs=None):
    """Run every launch; ``operands`` and ``results`` are arrays whose memory kernels use.

    ``blobs`` replaces the contents of constants by weight name.  The workspace is poisoned;
    counters must be zero again at the end.
    """
    env = env or {}
    workspace = np.full(int(evaluate(draft.workspace_bytes, env)) + 256, POISON, np.uint8)
    workspace = workspace[-workspace.ctypes.data % 256 :]
    kept = []

    def value(argument):
        match argument:
            case Read(i):
                return operands[i].ctypes.data
            case Write(i):
                return results[i].ctypes.data
            case Blob(weight):
                array = np.ascontiguousarray((blobs or {}).get(weight.name, weight.array))
                kept.append((array, None))
                return array.ctypes.data
            case Packed():
                array = np.ascontiguousarray(argument.make().array)
                assert array.nbytes == argument.size_bytes
                kept.append((array, None))
                return array.ctypes.data
            case Scratch():
                return workspace.ctypes.data
            case Scalar(dim):
                return int(evaluate(dim, env))
            case Counters(count):
                array = np.zeros(count, np.int32)
                kept.append((array, "counters"))
                return array.ctypes.data
            case Boxes(role):
                return Described(value(role), described(argument, env))
        raise AssertionError(argument)

    if isinstance(draft, LibraryDraft):
        names = [name for name, _ in draft.operands]
        operation = stand_in(draft.library).operation(sized(draft.problem, env), names, draft.plan)
        assert operation.workspace_bytes <= evaluate(draft.workspace_bytes, env)
        operation.run([value(role) for _, role in draft.operands], workspace.ctypes.data, 0)
    for launch in draft.launches:
        values = [value(a) for a in launch.arguments]
        x, y, z = (int(evaluate(d, env)) for d in launch.grid)
        if x * y * z:
            run_kernel(launch.kernel, (x, y, z), values)
    for array, what in kept:
        if what:
            assert not array.any(), "counters must be zero after a run"
