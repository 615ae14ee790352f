"""Choosing among tactics: selectors, libraries, limits of memory, how times are taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lamina
import lamina.tensorrt as trt
from lamina.plan.plan import Step, StepKind
from tests.tensorrt.running import Net, close, random


@pytest.fixture
def _legacy() -> Iterator[None]:
    trt.use("8.6")
    yield
    trt.use("10")


class Recorder(trt.IAlgorithmSelector):
    """Chooses by a function of the contexts and algorithms, and keeps what it was told."""

    def __init__(self, choose: Any = lambda context, choices: range(len(choices))) -> None:
        trt.IAlgorithmSelector.__init__(self)
        self.choose = choose
        self.asked: dict[str, Any] = {}
        self.reported: dict[str, Any] = {}

    def select_algorithms(self, context: Any, choices: Any) -> list[int]:
        self.asked[context.name] = (context, choices)
        return list(self.choose(context, choices))

    def report_algorithms(self, contexts: Any, choices: Any) -> None:
        assert len(contexts) == len(choices)
        self.reported = {c.name: a for c, a in zip(contexts, choices, strict=True)}


def convolution(channels: int = 32, size: int = 16) -> Net:
    net = Net(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    x = net.network.add_input("x", trt.float32, (1, channels, size, size))
    w = random(channels, channels, 3, 3)
    layer = net.network.add_convolution_nd(x, channels, (3, 3), w)
    layer.padding_nd = (1, 1)
    layer.name = "conv"
    relu = net.network.add_activation(layer.get_output(0), trt.ActivationType.RELU)
    relu.name = "relu"
    net.output(relu.get_output(0))
    net.config.builder_optimization_level = 3
    net.config.set_timing_cache(net.config.create_timing_cache(b""), False)
    return net


def native(engine: lamina.Engine) -> list[Step]:
    steps = engine.plan.sections[0].program.steps
    return [s for s in steps if s.name == "convolution"]


def fewest(algorithm: Any) -> int:
    return int(algorithm.workspace_size)


def test_a_selector_is_asked_for_each_node_and_told_the_choice() -> None:
    net, selector = convolution(), Recorder()
    net.config.algorithm_selector = selector
    engine = net.build()
    context, choices = selector.asked["conv + relu"]
    assert context.num_inputs == 1 and context.num_outputs == 1
    assert context.get_shape(0) == [(1, 32, 16, 16)] * 3
    assert len(choices) > 3
    variants = {(a.algorithm_variant.implementation, a.algorithm_variant.tactic) for a in choices}
    assert len(variants) == len(choices)
    assert all(a.timing_msec == 0 for a in choices)  # nothing was timed before
    final = selector.reported["conv + relu"]
    assert final.timing_msec == pytest.approx(native(engine)[0].microseconds / 1000, rel=1e-2)
    assert final.algorithm_variant in [a.algorithm_variant for a in choices]
    info = final.get_algorithm_io_info(0)
    assert info.dtype == trt.float32 and len(info.strides) == 4


def test_the_choice_of_a_selector_is_obeyed() -> None:
    x = random(1, 32, 16, 16)
    expected = convolution().run(x=x)
    _, choices = everything()
    for i, wanted in enumerate(choices):

        def choose(context: Any, offered: Any, wanted: Any = wanted) -> list[int]:
            if context.name != "conv + relu":
                return []
            found = [a.algorithm_variant.tactic for a in offered]
            return [found.index(wanted.algorithm_variant.tactic)]

        net, selector = convolution(), Recorder(choose)
        net.config.algorithm_selector = selector
        engine = net.build()
        assert selector.reported["conv + relu"].algorithm_variant == wanted.algorithm_variant, i
        assert len(native(engine)[0].tried) == 1
        close(engine(x), expected, 1e-3)


def everything() -> Any:
    net, selector = convolution(), Recorder()
    net.config.builder_optimization_level = 0
    net.config.algorithm_selector = selector
    net.build()
    return selector.asked["conv + relu"]


def test_formats_and_strides_of_algorithms() -> None:
    _, choices = everything()
    infos = {(i.vectorized_dim, i.components_per_element, *i.strides) for i in map(first, choices)}
    assert (-1, 1, 8192, 1, 512, 32) in infos  # channels last
    assert (1, 16, 512, 256, 16, 1) in infos or (-1, 1, 8192, 256, 16, 1) in infos


def first(algorithm: Any) -> Any:
    return algorithm.get_algorithm_io_info(0)


def test_a_selector_that_chooses_nothing() -> None:
    net, selector = convolution(), Recorder(lambda *_: [])
    net.config.algorithm_selector = selector
    assert len(native(net.build())[0].tried) > 1
    net.config.set_flag(trt.BuilderFlag.REJECT_EMPTY_ALGORITHMS)
    assert "chose none of the" in net.fails()


def test_a_selector_that_fails_or_chooses_what_is_not_there() -> None:
    def broken(*_: object) -> list[int]:
        raise KeyError("conv")

    net = convolution()
    net.config.algorithm_selector = Recorder(broken)
    assert "select_algorithms failed" in net.fails() and "KeyError" in net.fails()
    net.config.algorithm_selector = Recorder(lambda *_: [99])
    assert "chose tactic 99 of" in net.fails()


def test_timings_are_told_where_the_cache_knows_them() -> None:
    net = convolution()
    net.build()
    selector = Recorder()
    net.config.algorithm_selector = selector
    net.build()
    assert any(a.timing_msec > 0 for a in selector.asked["conv + relu"][1])


def test_shapes_of_a_profile_reach_the_selector() -> None:
    net, selector = Net(), Recorder()
    x = net.network.add_input("x", trt.float32, (-1, 8))
    net.output(net.network.add_softmax(x).get_output(0))
    net.profile(x=((1, 8), (4, 8), (16, 8)))
    net.config.algorithm_selector = selector
    net.build()
    (context, choices), *_ = selector.asked.values()
    assert context.get_shape(0) == [(1, 8), (4, 8), (16, 8)]
    assert tuple(first(choices[0]).strides) == (8, 1)


def test_each_program_of_a_profile_is_asked_about() -> None:
    net, asked, reported = Net(), [], []

    def choose(context: Any, choices: Any) -> Any:
        asked.append((context.name, context.get_shape(0)[1]))
        return range(len(choices))

    class Reported(Recorder):
        def report_algorithms(self, contexts: Any, choices: Any) -> None:
            reported.append([c.name for c in contexts])

    x = net.network.add_input("x", trt.float32, (-1, 8))
    softmax = net.network.add_softmax(x)
    softmax.name = "probabilities"
    net.output(softmax.get_output(0))
    net.profile(x=((1, 8), (1, 8), (4, 8)))
    net.profile(x=((64, 8), (64, 8), (64, 8)))
    net.config.algorithm_selector = Reported(choose)
    net.build()
    assert asked == [("probabilities", (1, 8)), ("probabilities", (64, 8))]
    assert reported == [["probabilities"]] * 2


def test_tactic_sources_turn_libraries_off_and_on() -> None:
    x = random(1, 32, 16, 16)
    net = convolution()
    expected = net.run(x=x)
    engines = {}
    for name, mask in {"none": 0, "cudnn": 1 << int(trt.TacticSource.CUDNN)}.items():
        net, selector = convolution(), Recorder()
        net.config.algorithm_selector = selector
        assert net.config.set_tactic_sources(mask) and net.config.get_tactic_sources() == mask
        engines[name] = net.build()
        close(engines[name](x), expected, 1e-3)
    tried = {n: {m.tactic.split(" ")[0] for m in native(e)[0].tried} for n, e in engines.items()}
    assert "onednn" in tried["cudnn"] and "onednn" not in tried["none"]
    assert StepKind.PRIMITIVE not in {s.kind for s in native(engines["none"])}


def test_products_and_integers_without_a_library() -> None:
    net = Net()
    x, w = random(4, 64), random(64, 32)
    product = net.network.add_matrix_multiply(
        net.input("x", x), trt.MatrixOperation.NONE, net.constant(w), trt.MatrixOperation.NONE
    )
    net.output(product.get_output(0))
    net.config.set_tactic_sources(0)
    close(net.run(x=x), x @ w, 1e-4)


def test_tactics_with_large_workspaces_are_left_out() -> None:
    x = random(1, 32, 16, 16)
    expected = convolution().run(x=x)
    _, choices = everything()
    assert max(map(fewest, choices)) > 0
    greedy = max(choices, key=fewest)

    def choose(context: Any, offered: Any) -> list[int]:
        found = [a.algorithm_variant.tactic for a in offered]
        wanted = greedy.algorithm_variant.tactic
        return [found.index(wanted)] if wanted in found else []

    net, selector = convolution(), Recorder(choose)
    net.config.algorithm_selector = selector
    net.config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 0)
    engine = net.build()
    assert {s.workspace_bytes for s in engine.plan.sections[0].program.steps} == {0}
    assert all(fewest(a) == 0 for a in selector.asked["conv + relu"][1])
    close(engine(x), expected, 1e-3)


def test_a_chosen_tactic_that_wants_too_much_is_refused_with_the_reason() -> None:
    net = convolution()
    net.config.builder_optimization_level = 0  # takes what has the best estimate
    free = native(net.build())[0]
    net.config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1)
    step = native(net.build())[0]
    assert step.workspace_bytes == 0
    if free.workspace_bytes:
        assert any("bytes of workspace, the limit is 1" in why for _, why in step.declined)


def test_the_number_of_tactics_is_limited() -> None:
    net = convolution()
    net.config.max_num_tactics = 2
    assert len(native(net.build())[0].tried) <= 2


def test_times_are_averages_of_as_many_runs_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.backends.cpu import measure

    counts: list[int] = []
    run = measure.Segment.run

    def counted(self: Any) -> None:
        counts.append(1)
        run(self)

    monkeypatch.setattr(measure.Segment, "run", counted)
    monkeypatch.setattr(measure, "_ENOUGH_SECONDS", 0.0)
    net = convolution()
    net.config.max_num_tactics = 2
    net.build()
    few = len(counts)
    counts.clear()
    net = convolution()
    net.config.max_num_tactics = 2
    net.config.avg_timing_iterations = 8
    net.build()
    assert few < len(counts) and len(counts) % 2 == 0


@pytest.mark.usefixtures("_legacy")
def test_legacy_options_reach_the_build() -> None:
    net = convolution()
    net.config.min_timing_iterations = 4
    net.config.max_workspace_size = 0
    assert net.config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 0
    assert {s.workspace_bytes for s in native(net.build())} == {0}
    net = convolution()
    net.builder.max_workspace_size = 0
    net.builder.average_find_iterations = 2
    engine = net.builder.build_cuda_engine(net.network)
    steps = engine._engine.plan.sections[0].program.steps
    assert {s.workspace_bytes for s in steps} == {0}


def test_an_edited_timing_cache_decides() -> None:
    net = convolution()
    net.build()
    cache = net.config.get_timing_cache()
    keys = cache.queryKeys()
    before = [(k, cache.query(k)) for k in keys]
    selector = Recorder()
    net.config.algorithm_selector = selector
    net.build()
    timed = {a.algorithm_variant.tactic for a in selector.asked["conv + relu"][1] if a.timing_msec}
    key, value = next((k, v) for k, v in before if v.tacticHash in timed and len(timed) > 1)
    for other in sorted(timed - {value.tacticHash})[:2]:
        assert cache.update(key, trt.TimingCacheValue(other, 7.0))
        found = cache.query(key)
        assert found.tacticHash == other and found.timingMSec == pytest.approx(7.0)
        net.build()
        assert selector.reported["conv + relu"].algorithm_variant.tactic == other
    assert not cache.update(key, trt.TimingCacheValue(1, 1.0))
    assert np.isclose(cache.query(key).timingMSec, 7.0)


def test_times_that_the_cache_lacks_may_be_an_error() -> None:
    net = convolution()
    net.config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
    assert "the timing cache has no time of" in net.fails()
    net.config.clear_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
    net.build()
    net.config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
    net.build()


@pytest.mark.usefixtures("_legacy")
def test_a_preview_feature_leaves_libraries_out() -> None:
    net = convolution()
    feature = trt.PreviewFeature.DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805
    net.config.set_preview_feature(feature, True)
    tried = {m.tactic.split(" ")[0] for m in native(net.build())[0].tried}
    assert tried and "onednn" not in tried


def test_tensors_that_stay_unfused_are_shown() -> None:
    class Listener(trt.IDebugListener):
        def __init__(self) -> None:
            trt.IDebugListener.__init__(self)
            self.seen: dict[str, Any] = {}

        def process_debug_tensor(
            self, addr: int, location: Any, type: Any, shape: Any, name: str, stream: int
        ) -> bool:
            self.seen[name] = tuple(shape)
            return True

    net = convolution()
    first = net.network.get_layer(1).get_output(0)
    first.name = "hidden"
    net.network.unmark_output(first)
    pool = net.network.add_pooling_nd(first, trt.PoolingType.MAX, (2, 2))
    net.output(pool.get_output(0))
    assert net.network.mark_unfused_tensors_as_debug_tensors()
    data = net.builder.build_serialized_network(net.network, net.config)
    assert data is not None
    engine = trt.Runtime(net.logger).deserialize_cuda_engine(data)
    assert [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)] == ["x", "y0"]
    context = engine.create_execution_context()
    listener = Listener()
    assert context.set_debug_listener(listener)
    x, y = random(1, 32, 16, 16), np.zeros((1, 32, 15, 15), np.float32)
    context.set_tensor_address("x", x.ctypes.data)
    context.set_tensor_address("y0", y.ctypes.data)
    assert context.execute_async_v3(0) and not listener.seen
    context.unfused_tensors_debug_state = True
    assert context.execute_async_v3(0)
    assert listener.seen == {"hidden": (1, 32, 16, 16)}  # the convolution alone is fused
