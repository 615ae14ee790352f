"""Runs single candidates of the CPU backend and compares them with the operator's meaning."""

import numpy as np

from lamina.backends.cpu.code import Code, Objects
from lamina.backends.cpu.native import address, aligned_bytes
from lamina.backends.cpu.resources import Resources
from lamina.backends.cpu.segment import Location, Segment
from lamina.ir.types import TensorType
from lamina.plan.plan import Program, Section, Step
from lamina.tactics.candidate import Blob, Packed, Read, Scratch
from lamina.tactics.choices import dense_layouts
from lamina.tactics.form import Form, layout, size_bytes

GUARD = 4096


def to_form(array, form):
    """Return the bytes of an array in a form."""
    if form == Form.CHANNELS_LAST:
        array = np.moveaxis(array, 1, -1)
    elif form == Form.BLOCKED:
        n, c, *rest = array.shape
        blocks = -(-c // 16)
        padded = np.zeros((n, blocks * 16, *rest), array.dtype)
        padded[:, :c] = array
        array = np.moveaxis(padded.reshape(n, blocks, 16, *rest), 2, -1)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def from_form(raw, type: TensorType, form):
    """Return the array that lies in ``raw`` in a form."""
    typed = raw.view(type.dtype.numpy)
    shape = type.static_shape
    if form == Form.CHANNELS_LAST:
        n, c, *rest = shape
        return np.moveaxis(typed.reshape(n, *rest, c), -1, 1)
    if form == Form.BLOCKED:
        n, c, *rest = shape
        blocks = -(-c // 16)
        whole = np.moveaxis(typed.reshape(n, blocks, *rest, 16), -1, 2)
        return whole.reshape(n, blocks * 16, *rest)[:, :c]
    return typed.reshape(shape)


class Buffers:
    """Memory with guard bytes around each operand and result."""

    def __init__(self):
        self.arrays = []

    def add(self, contents, size):
        whole = aligned_bytes(size + 2 * GUARD)
        whole[:] = 0xA5
        inner = whole[GUARD : GUARD + size]
        if contents is not None:
            inner[:] = contents
        self.arrays.append((whole, inner))
        return len(self.arrays) - 1

    def locate(self, tensor):
        return Location(address(self.arrays[tensor][1]))

    def intact(self):
        return all(
            (w[:GUARD] == 0xA5).all() and (w[GUARD + i.size :] == 0xA5).all()
            for w, i in self.arrays
        )


def run_candidate(node, candidate, target, operands):
    """Return the results of one candidate on arrays; asserts that it stays inside its memory."""
    code = Code(Objects(target.isa))
    draft = code.draft(candidate, *dense_layouts(node, candidate))
    empty = Program(inputs=(), outputs=(), tensors=(), steps=())
    section = Section(target=(), program=empty, image=code.image(), blobs=())
    resources = Resources(section, target.library, target.threads)
    buffers = Buffers()
    written = {}
    arguments = []
    for role in draft.arguments:
        if isinstance(role, Scratch):
            arguments.append(-1)
        elif isinstance(role, Blob | Packed):
            weight = role.weight if isinstance(role, Blob) else role.make()
            raw = np.ascontiguousarray(weight.array).reshape(-1).view(np.uint8)
            assert isinstance(role, Blob) or raw.size == role.size_bytes
            arguments.append(buffers.add(raw, raw.size))
        elif isinstance(role, Read):
            form = candidate.reads[role.index] or Form.PLAIN
            raw = to_form(operands[role.index], form)
            arguments.append(buffers.add(raw, raw.size))
        else:
            form = candidate.writes[role.index]
            type = node.outputs[role.index].tensor
            number = buffers.add(None, int(size_bytes(type, form)))
            written[role.index] = (number, type, form)
            arguments.append(number)
    step = Step(
        kind=draft.kind, name="tested", tactic=candidate.tactic, loc="", reads=(), writes=(),
        arguments=tuple(arguments), names=draft.names, symbols=draft.symbols,
        parameters=draft.parameters, threads=draft.threads,
        workspace_bytes=draft.workspace_bytes, spec=draft.spec,
    )  # fmt: skip
    Segment(resources, [step], buffers, np.zeros(1, np.int64), dict(target.env)).run()
    assert buffers.intact(), f"{candidate.tactic} wrote outside its memory"
    return [
        from_form(buffers.arrays[number][1], type, form)
        for _, (number, type, form) in sorted(written.items())
    ]


__all__ = ["layout", "run_candidate"]
