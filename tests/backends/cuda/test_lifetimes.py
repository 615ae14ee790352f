"""What is given back, and when: code, streams, graphs and memory, in whatever order objects die."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from tests.backends.cuda.sections import chain, chained, context, device, on_device

from lamina.backends.cuda.memory import Event, Memory, Stream

X = np.arange(8, dtype=np.float32)


@pytest.fixture
def no_collection():
    """Let the collector run only where a test asks for it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def used(on, stream=None):
    """Return a context that has run: launch by launch, and twice as a graph."""
    runs = context(chain("n"), on, ranges=[("n", 1, 8, 64)])
    for n in (8, 8, 8, 3):
        x = on_device(on, X[:n])
        y = runs.run({"x": x}, stream=stream)["y"]
        np.testing.assert_array_equal(y.numpy(), chained(X[:n]))
    return runs


@pytest.mark.parametrize("stream", [None, 77])
def test_everything_is_given_back_without_a_collection(no_collection, stream):
    on = device()
    runs = used(on, stream)
    assert on.used_bytes
    del runs
    assert on.used_bytes == 0 and on.faults == []


@pytest.mark.parametrize("stream", [None, 77])
@pytest.mark.parametrize("held", ["_runner", "_runner._stream", "_runner._bound", "_runner._done"])
def test_everything_is_given_back_from_a_garbage_cycle(no_collection, held, stream):
    """A cycle ends all that hangs on it in no particular order."""
    on = device()
    runs = used(on, stream)
    at = runs
    for name in held.split("."):
        at = getattr(at, name)
    cycle = [runs, at]
    cycle.append(cycle)
    del cycle, at, runs
    assert on.used_bytes
    gc.collect()
    assert on.used_bytes == 0 and on.faults == []


def test_a_result_outlives_its_context(no_collection):
    on = device()
    runs = context(chain(), on)
    y = runs.run({"x": on_device(on, X)})["y"]
    del runs
    np.testing.assert_array_equal(y.numpy(), chained(X))
    del y
    assert on.used_bytes == 0 and on.faults == []


def test_memory_goes_behind_the_work_on_a_users_stream():
    class Ordered(type(device())):
        calls: list[tuple[str, int]] = []

        def wait(self, stream, event):
            self.calls.append(("wait", stream))
            super().wait(stream, event)

        def free(self, pointer, size_bytes, stream):
            self.calls.append(("free", stream))
            super().free(pointer, size_bytes, stream)

    on = Ordered()
    stream, elsewhere = Stream(on), Event(on)
    buffer = Memory(on).buffer(64, "a test", stream)
    stream.behind(elsewhere)
    handle = stream.handle
    del elsewhere, stream, buffer
    assert on.calls == [("wait", handle), ("free", handle)] and on.faults == []


def test_the_simulated_device_tells_of_what_would_crash():
    on = device()
    stream = on.stream()
    pointer = on.allocate(16, stream)
    on.destroy_stream(stream)
    on.free(pointer, 16, stream)
    assert on.faults == [f"free on stream {stream}, which was destroyed before"]
