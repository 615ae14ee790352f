"""Kernels from worker processes: in what order their makers hear of them, and when to stop."""

from __future__ import annotations

from types import SimpleNamespace

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
    told = list(compiler.begin(requests).finished())
    assert told[0] == request(1.0)
    assert sorted(map(requests.index, told)) == [0, 1, 2]
    assert all(isinstance(compiler.known[r], MachineCode) for r in requests)
    compiler.close()  # which waits until all is stored
    with Compiler(90, 1) as other:  # from the cache on disk: no process is started
        assert len(list(other.begin(requests).finished())) == 3 and other._pool is None


def test_there_may_be_enough(compiler):
    told = []
    requests = [request(float(n)) for n in range(8)]
    for r in compiler.begin(requests).finished(lambda: bool(told)):
        told.append(r)
    assert 1 <= len(told) < 8  # what a process had begun is finished
    assert set(compiler.known) == set(told)
    again = compiler.compile(requests[-1:])  # the others may still be asked for
    assert isinstance(again[requests[-1]], MachineCode)


def test_a_batch_takes_more_while_it_is_compiled(compiler):
    batch = compiler.begin([request(1.0)])
    told = []
    for r in batch.finished():
        told.append(r)
        if len(told) == 1:
            batch.add([request(2.0), request(1.0), request(3.0), request(2.0)])
    assert told[0] == request(1.0)
    assert sorted(told[1:], key=str) == [request(1.0), request(2.0), request(3.0)]
    assert not compiler._running
    assert compiler.spent.beside["kernels compiled"] == 3


def test_what_is_waited_for_is_not_given_up(compiler):
    requests = [request(float(n)) for n in range(4)]
    batch = compiler.begin(requests)
    assert isinstance(compiler.code(request(8.0)), MachineCode)  # something else meanwhile
    assert sorted(map(requests.index, batch.finished())) == [0, 1, 2, 3]


@pytest.mark.parametrize(("busy", "grown"), [(0.9, []), (0.6, [7]), (0.2, [8])])
def test_where_cores_wait_more_processes_start(busy, grown):
    compiler, asked = Compiler(90, 4), []
    compiler._pool = SimpleNamespace(grow=asked.append)
    for _ in range(8):
        compiler._watch(busy, 1.0)
    assert asked == grown  # once, when every process had something to do


def test_the_toolchain_names_versions():
    assert toolchain().startswith("triton ")
    assert ", sources " in toolchain()
