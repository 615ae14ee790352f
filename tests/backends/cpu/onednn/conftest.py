"""Runs a specification on arrays, whatever layouts the library chose."""

from __future__ import annotations

import numpy as np
import pytest

from lamina.backends.cpu.onednn import library, packing, primitives
from lamina.backends.cpu.onednn.memory import allocate

OUTPUTS = ("dst", "dst_iter", "dst_iter_c")


@pytest.fixture(scope="session")
def onednn():
    return library.load()


@pytest.fixture
def needs(onednn):
    """``needs(dtype)`` skips the test where this processor has no primitives of that dtype."""

    def needs(dtype):
        if dtype == "bf16" and not onednn.has_bf16:
            pytest.skip(f"{onednn.isa} has no bf16")

    return needs


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture
def run(onednn):
    """``run(spec, **inputs)``: packed, executed and unpacked dst (or a tuple with the states).

    A value given for an output is what its buffer holds before; otherwise it holds noise.  Names
    with brackets are given with underscores: ``post_op_0`` for ``post_op[0]``.
    """

    def run(spec, **inputs):
        primitive = primitives.create(onednn, spec)
        inputs = {rename(name): array for name, array in inputs.items()}
        buffers = {}
        for name in primitive.argument_names:
            if name in inputs and spec.attributes.parameter_layout(name):
                buffers[name] = inputs[name]
            elif name in inputs:
                buffers[name] = packing.pack(primitive, inputs[name], name)
            elif name in OUTPUTS or name in ("scratchpad", "workspace"):
                buffers[name] = allocate(primitive.layout(name).size_bytes)
                buffers[name][:] = 0x5A
        primitive.execute(buffers)
        results = [
            packing.unpack(primitive, buffers[name], name)
            for name in OUTPUTS
            if name in primitive.argument_names
        ]
        run.implementation = primitive.implementation
        return results[0] if len(results) == 1 else tuple(results)

    return run


def rename(name):
    for base in ("post_op_weights", "post_op", "src"):
        rest = name.removeprefix(f"{base}_")
        if rest != name and rest.isdigit() and name != "src_1":
            return f"{base}[{rest}]"
    return name


def assert_close(actual, expected, relative):
    """The largest error, relative to the largest expected magnitude, is within ``relative``."""
    actual = np.asarray(actual, np.float64)
    assert actual.shape == expected.shape
    scale = max(np.abs(expected).max(), 1e-6)
    worst = np.abs(actual - expected).max() / scale
    assert worst <= relative, f"relative error {worst:.3g} > {relative}"


@pytest.fixture(name="assert_close")
def assert_close_fixture():
    return assert_close
