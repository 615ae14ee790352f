"""Teams without oneDNN: an OpenMP runtime where there is one, else a pool of our own threads."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import lamina
from lamina.backends.cpu import driver, resources
from tests.plan.plans import graph

# The recurrent kernel's threads wait for one another in every step.
TEXT = """graph(%x: f32[9,2,40], %h: f32[1,2,96], %c: f32[1,2,96], %z: f32[64,5000]) {
  %w = const() type=f32[1,384,40] seed=1
  %r = const() type=f32[1,384,96] seed=2
  %b = const() type=f32[1,768] seed=3
  %y, %last, %cell = recurrent(%x, %w, %r, %b, %h, %c) kind=lstm hidden_size=96 \
direction=forward activations=({sigmoid,0.0,0.0},{tanh,0.0,0.0},{tanh,0.0,0.0})
  %t = activation(%z) kind=tanh
  return %y as "y", %t as "t"
}"""


@pytest.fixture(params=["openmp", "pool"])
def engine(request, monkeypatch):
    monkeypatch.setattr(driver, "find_library", lambda: (None, "left out by a test"))
    if request.param == "pool":
        monkeypatch.setattr(resources, "openmp_functions", dict)
    yield lamina.build(graph(TEXT), threads=3, timing_cache="", optimization_level=0)


def _feed(seed):
    rng = np.random.default_rng(seed)
    shapes = {"x": (9, 2, 40), "h": (1, 2, 96), "c": (1, 2, 96), "z": (64, 5000)}
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def test_teams_give_the_same_results_again_and_again(engine):
    feed = _feed(0)
    wanted = engine.run(feed)
    np.testing.assert_allclose(wanted["t"], np.tanh(feed["z"]), rtol=1e-5, atol=1e-6)
    for _ in range(200):
        for name, y in engine.run(feed).items():
            np.testing.assert_array_equal(y, wanted[name])


def test_contexts_share_the_threads(engine):
    feeds = [_feed(i) for i in range(4)]
    wanted = [engine.run(feed) for feed in feeds]

    def work(i):
        context = engine.create_context()
        for _ in range(40):
            for name, y in context.run(feeds[i]).items():
                np.testing.assert_allclose(y, wanted[i][name], rtol=1e-6, atol=1e-6)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_threads_end_with_their_engine(monkeypatch):
    monkeypatch.setattr(driver, "find_library", lambda: (None, "left out by a test"))
    monkeypatch.setattr(resources, "openmp_functions", dict)
    before = set(threading.enumerate())
    built = lamina.build(graph(TEXT), threads=3, timing_cache="", optimization_level=0)
    built.run(_feed(1))
    started = set(threading.enumerate()) - before
    assert len([t for t in started if t.name.startswith("lamina-")]) == 2
    del built
    gc.collect()
    assert not any(t.is_alive() for t in started)
