"""What counts as the time of a graph."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from tests.backends.cuda.contractions import node_of
from tests.backends.cuda.simulation import SIMULATED_ARCH, Requests

from lamina.backends.cuda.bench import Bench, TimedGraph, copy_trial
from lamina.backends.cuda.simulated import SimulatedDevice
from lamina.backends.cuda.tactics.boxed import TritonMatmulBoxed
from lamina.backends.cuda.tactics.reorder import reorder_draft
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.timed_step import TimedStep, Trial
from lamina.ir.types import DType, TensorType
from lamina.ops import Matmul
from lamina.tactics.candidate import Placement
from lamina.tactics.choices import dense_layouts
from lamina.tactics.form import Form, layout

_DELAY = 0.05


class Busy(SimulatedDevice):
    """A device whose graphs start late, as when the processor has other work."""

    def launch_graph(self, executable, stream):
        time.sleep(_DELAY)
        super().launch_graph(executable, stream)


def test_what_delays_a_graph_does_not_count():
    device = Busy()
    with Bench(device, TARGETS[SIMULATED_ARCH], Requests(SIMULATED_ARCH, 1)) as bench:
        graph = TimedGraph(bench, lambda _, last: last)
        assert graph.run(2) < 0.5e6 * _DELAY
        graph.close()
    assert not device.faults and not device.used_bytes


def test_runs_that_may_overlap_write_to_different_scratch_memory():
    type = TensorType(DType.F16, (1, 8, 4, 4))
    forms = (Form.PLAIN, Form.CHANNELS_LAST)
    at = Placement((layout(type, forms[0]),), (layout(type, forms[1]),), "")
    target, compiler = TARGETS[SIMULATED_ARCH], Requests(SIMULATED_ARCH, 1)
    trial = copy_trial(type, at, reorder_draft(type, at, target))
    code = {
        request: dataclasses.replace(found, scratch_bytes=64)
        for request, found in compiler.compile([x.kernel for x in trial.draft.launches]).items()
    }
    with Bench(SimulatedDevice(), target, compiler) as bench:
        step = TimedStep(bench, trial, code)
        first, second, third = (step.launches(number)[0].values[-2] for number in range(3))
    assert first and first != second and third == first


def test_a_timed_step_describes_what_the_copy_engine_brings():
    x, w = np.zeros((64, 96), np.float16), np.zeros((96, 128), np.float16)
    node = node_of(Matmul(), [x, w], (1,))
    at = Placement(*dense_layouts(node, (c := _boxed(node))), "")
    trial = Trial(node, c, at, c.draft(at))
    compiler = Requests(SIMULATED_ARCH, 1)
    code = dict(compiler.compile([trial.draft.launches[0].kernel]))
    with Bench(SimulatedDevice(), TARGETS[SIMULATED_ARCH], compiler) as bench:
        (launch,) = TimedStep(bench, trial, code).launches(0)
        assert launch.types[:3] == ("m", "m", "m") and all(launch.values[:3])
        assert [m.sizes for m in launch.maps] == [(64, 96), (128, 96), (64, 128)]
        assert [m.strides for m in launch.maps] == [(96, 1), (96, 1), (128, 1)]
        bench.device.launch(launch, 0)


def _boxed(node):
    return TritonMatmulBoxed().candidates(node, TARGETS[SIMULATED_ARCH])[-1]
