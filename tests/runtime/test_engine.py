"""Engines and contexts: in parallel, over many shapes, what they report."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import lamina
from lamina.backends.cpu.runner import _KEPT_INSTANCES
from lamina.errors import PlanError
from lamina.ir.interpret import interpret
from tests.plan.plans import CONVOLUTION, DYNAMIC, engine, feed, graph, plan_bytes

BUSY = """graph(%x: f32[256,256]) {
  %a = matmul(%x, %x)
  %b = activation(%a) kind=tanh
  %c = matmul(%b, %x)
  %d = activation(%c) kind=tanh
  %e = matmul(%d, %x)
  return %e as "y"
}"""


def _dynamic_feed(b: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((b, 12)).astype(np.float32),
        "s": rng.standard_normal((b, 6)).astype(np.float32),
    }


def _expected(inputs: dict[str, np.ndarray]) -> np.ndarray:
    result: np.ndarray = interpret(graph(DYNAMIC), list(inputs.values()))[0]
    return result


def test_contexts_in_parallel_threads_give_right_results() -> None:
    shared = lamina.load(plan_bytes("dynamic"))
    feeds = [_dynamic_feed(1 + i % 4, i) for i in range(8)]
    wanted = [_expected(f) for f in feeds]
    start = threading.Barrier(4)

    def work(number: int) -> None:
        context = shared.create_context()
        start.wait(10)
        for i in range(60):
            k = (i + number) % len(feeds)
            y = context.run(feeds[k])["y"]
            np.testing.assert_allclose(y, wanted[k], rtol=1e-4, atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, n) for n in range(4)]:
            future.result(60)


@pytest.mark.parametrize("kind", ["host", "control"])
def test_programs_with_host_steps_run_in_parallel_too(kind: str) -> None:
    shared = lamina.load(plan_bytes(kind))
    wanted = shared.run(feed(kind))

    def work() -> None:
        context = shared.create_context()
        for _ in range(20):
            for name, y in context.run(feed(kind)).items():
                np.testing.assert_array_equal(y, wanted[name])

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(work) for _ in range(3)]:
            future.result(60)


def test_the_interpreter_is_free_during_a_run() -> None:
    """Python counts in one thread while another is inside native code."""
    context = lamina.build(graph(BUSY), timing_cache="", threads=1).create_context()
    x = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32) * 0.05
    context.run({"x": x})
    counted = 0
    done = threading.Event()

    def count() -> None:
        nonlocal counted
        while not done.is_set():
            counted += 1
            time.sleep(0)

    other = threading.Thread(target=count)
    other.start()
    before = counted
    began = time.perf_counter()
    runs = 0
    while time.perf_counter() - began < 0.2:
        context.run({"x": x})
        runs += 1
    during = counted - before
    done.set()
    other.join(10)
    # With the lock held through each run, the counter could advance about once per run.
    assert during > 3 * runs


def test_an_engine_is_used_over_many_shapes_with_bounded_memory() -> None:
    text = """graph(%x: f32[a,b]) {
      %t = transpose(%x) perm=(1,0)
      %y = activation(%t) kind=silu alpha=1.0
      return %y as "y"
    }"""
    built = lamina.build(graph(text), shapes={"x": ((1, 1), (4, 4), (40, 40))}, timing_cache="")
    context = built.create_context()
    rng = np.random.default_rng(0)
    for _ in range(60):
        shape = tuple(rng.integers(1, 41, 2))
        x = rng.standard_normal(shape).astype(np.float32)
        y = context.run({"x": x})["y"]
        np.testing.assert_allclose(y, (x / (1 + np.exp(-x))).T, rtol=1e-4, atol=1e-6)
        assert len(context._runner._instances) <= _KEPT_INSTANCES  # type: ignore[attr-defined]


def test_the_same_shape_again_makes_nothing_new() -> None:
    context = lamina.load(plan_bytes("dynamic")).create_context()
    context.run(_dynamic_feed(2, 0))
    instance = context._runner._instance  # type: ignore[attr-defined]
    context.run(_dynamic_feed(3, 0))
    context.run(_dynamic_feed(2, 1))
    assert context._runner._instance is instance  # type: ignore[attr-defined]


def test_a_profile_has_a_time_for_every_layer() -> None:
    for kind in ("convolution", "dynamic", "host", "control"):
        used = engine(kind)
        layers = used.profile(feed(kind), runs=3)
        steps = used.plan.sections[0].program.steps
        assert [(t.name, t.loc, t.tactic) for t in layers] == [
            (s.name, s.loc, s.tactic) for s in steps
        ]
        assert all(t.microseconds >= 0 for t in layers)
        assert sum(t.microseconds for t in layers) > 0


def test_times_of_a_profile_add_up_to_the_run() -> None:
    used = lamina.build(graph(BUSY), timing_cache="", threads=1)
    x = np.full((256, 256), 0.01, np.float32)
    context = used.create_context()
    context.run({"x": x})
    ratios = []
    for _ in range(9):
        began = time.perf_counter()
        context.run({"x": x})
        whole = (time.perf_counter() - began) * 1e6
        ratios.append(sum(context.profile({"x": x})) / whole)
    # Loose: the machine may be busy with something else during one of the two.
    assert 0.3 < float(np.median(ratios)) < 3


def test_a_report_says_what_there_is() -> None:
    built = lamina.build(graph(CONVOLUTION), timing_cache="")
    report = built.inspect()
    first = report.layers[0]
    assert first.name in ("convolution", "reorder", "region")
    named = [layer for layer in report.layers if layer.name == "convolution"]
    assert len(named) == 1
    (convolution,) = named
    assert "line 3" in convolution.loc
    assert "line 4" in convolution.loc
    assert any(name.startswith(convolution.tactic) for name, _ in convolution.tried)
    times = [us for _, us in convolution.tried]
    assert times == sorted(times)
    assert convolution.microseconds > 0
    assert all(reason for _, reason in convolution.declined)
    assert any("f32[1,16,8,8]" in text for text in convolution.outputs)
    assert report.target["device"] == "cpu"
    assert report.config["precision"] == '"fp32"'
    assert report.memory["constants"] >= 16 * 3 * 9 * 4
    assert report.memory["lower_bound"] <= report.memory["arena"]
    assert report.fallbacks == ()


def test_a_report_lists_what_runs_on_the_host() -> None:
    (line,) = engine("host").inspect().fallbacks
    assert "bind_dims" in line
    assert "runs on the host" in line


def test_a_report_without_inputs_to_invent() -> None:
    from tests.importers.models import model

    source = "agraph (seq(float[N]) s) => (float[M] y) { y = ConcatFromSequence<axis = 0>(s) }"
    built = lamina.build(model(source), timing_cache="")
    assert built.inspect().memory == {}
    with pytest.raises(PlanError, match=r"input 's' is seq<.*give the inputs yourself"):
        built.profile()


def test_memory_is_what_was_planned() -> None:
    from lamina.backends.cpu.instance import _lifetimes
    from lamina.ir.dims import evaluate
    from lamina.plan.plan import Place
    from lamina.runtime.arena import Lifetime, plan_arena

    used = engine("convolution")
    context = used.create_context()
    assert set(context.memory()) == {"constants"}
    context.run(feed("convolution"))
    program = used.plan.sections[0].program
    first, last = _lifetimes(program)
    lifetimes = [
        Lifetime(evaluate(t.size_bytes, {}), first[i], last[i])
        for i, t in enumerate(program.tensors)
        if t.place is Place.ARENA and i in first
    ]
    planned = plan_arena(lifetimes)
    assert lifetimes
    assert context.memory()["arena"] == planned.size_bytes
    assert context.memory()["lower_bound"] == planned.lower_bound_bytes


def test_threads_may_be_chosen_when_loading() -> None:
    x = feed("convolution")
    wanted = engine("convolution").run(x)["y"]
    for threads in (1, 2, 3):
        found = lamina.load(plan_bytes("convolution"), threads=threads).run(x)["y"]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_an_unknown_device_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.plan"
    engine("convolution").save(path)
    with pytest.raises(PlanError, match="device 'tpu' is not known"):
        lamina.load(path, device="tpu")


def test_an_engine_may_outlive_its_file(tmp_path: Path) -> None:
    path = tmp_path / "net.plan"
    engine("convolution").save(path)
    loaded = lamina.load(path)
    path.unlink()
    x = feed("convolution")
    np.testing.assert_array_equal(loaded.run(x)["y"], engine("convolution").run(x)["y"])


def test_a_context_may_outlive_its_engine() -> None:
    context = lamina.load(plan_bytes("dynamic")).create_context()
    inputs = _dynamic_feed(2, 5)
    np.testing.assert_allclose(context.run(inputs)["y"], _expected(inputs), rtol=1e-4, atol=1e-5)
