"""Kernels from worker processes: in what order their makers hear of them, and when to stop."""

from __future__ import annotations

import pytest

from lamina.backends.cuda.compile import Compiler, MachineCode, toolchain
from lamina.backends.cuda.request import KernelRequest

SOURCE = """import triton
import triton.language as tl


@triton.jit
def fill(x, NUMBER: tl.constexpr):
    tl.store(x + tl.program_id(0), NUMBER)
"""


def request(number):
    constants = (("NUMBER", number),)
    return KernelRequest(
        function="fill", source=SOURCE, parameters=(("x", "*fp32"),), constants=constants, warps=1
    )


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))
    with Compiler(90, 1) as compiler:
        yield compiler


def test_each_kernel_is_told_of_once_known_ones_first(compiler):
    compiler.compile([request(1.0)])
    requests = [request(n) for n in (0.0, 1.0, 2.0, 1.0)]
    told = list(compiler.begin(requests))
    assert told[0] == request(1.0)
    assert sorted(map(requests.index, told)) == [0, 1, 2]
    assert all(isinstance(compiler.known[r], MachineCode) for r in requests)
    with Compiler(90, 1) as other:  # from the cache on disk: no process is started
        assert len(list(other.begin(requests))) == 3 and other._pool is None


def test_there_may_be_enough(compiler):
    told = []
    requests = [request(float(n)) for n in range(8)]
    for r in compiler.begin(requests, lambda: bool(told)):
        told.append(r)
    assert 1 <= len(told) < 8  # what a process had begun is finished
    assert set(compiler.known) == set(told)
    again = compiler.compile(requests[-1:])  # the others may still be asked for
    assert isinstance(again[requests[-1]], MachineCode)


def test_what_may_come_next_is_compiled_behind_the_rest(compiler):
    first, second, third = request(1.0), request(2.0), request(3.0)
    arriving = compiler.begin([first])
    compiler.prepare([first, second, third, second])
    assert list(arriving) == [first]
    running = compiler._running[second]
    assert list(compiler.begin([second])) == [second]
    assert running.done() and isinstance(compiler.known[second], MachineCode)
    # The third was given up, or had begun: either way it may be asked for.
    assert list(compiler.begin([third])) == [third]
    assert not compiler._running and not compiler._ahead


def test_what_is_waited_for_is_not_given_up(compiler):
    requests = [request(float(n)) for n in range(4)]
    arriving = compiler.begin(requests)
    compiler.prepare([request(9.0)])
    assert isinstance(compiler.code(request(8.0)), MachineCode)  # something else meanwhile
    assert sorted(map(requests.index, arriving)) == [0, 1, 2, 3]


def test_the_toolchain_names_versions():
    assert toolchain().startswith("triton ")
    assert ", sources " in toolchain()
