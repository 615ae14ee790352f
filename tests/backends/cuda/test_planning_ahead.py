"""Plans of cuDNN's engines are made by other processes, beside what is timed."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Future

import pytest
from tests.backends.cuda import fake_cudnn
from tests.backends.cuda.simulation import SIMULATED_ARCH, Requests
from tests.backends.cuda.test_measure import JOINED, Times
from tests.backends.cuda.test_plan_store import NAMES, PROBLEM

import lamina.backends.cuda.compiler as compiler_of_cuda
import lamina.backends.cuda.measure as measure_of_cuda
import lamina.backends.cuda.refinement as refinement_of_cuda
from lamina import ops
from lamina.backends.cuda import plan_worker
from lamina.backends.cuda.compiler import CudaCompiler
from lamina.backends.cuda.library.cudnn import Cudnn
from lamina.backends.cuda.library.cudnn_planner import Planner
from lamina.backends.cuda.library.plan_store import PlanStore
from lamina.backends.cuda.simulated import SimulatedDevice
from lamina.backends.cuda.tactics.convolution import TritonConvolution
from lamina.backends.cuda.tactics.cudnn import CudnnConvolution
from lamina.backends.cuda.tactics.generated import Generated
from lamina.backends.cuda.target import TARGETS
from lamina.config import BuildConfig
from lamina.errors import BuildError, DeviceError
from lamina.ir.text import parse_graph
from lamina.tactics.cache import TimingCache


@pytest.fixture(autouse=True)
def worker(monkeypatch):
    """What a process loads is the stand-in."""
    monkeypatch.setattr(plan_worker, "load_cudnn", lambda: fake_cudnn)
    monkeypatch.setattr(plan_worker, "open_device", lambda ordinal: SimulatedDevice())
    plan_worker._library.cache_clear()
    yield
    plan_worker._library.cache_clear()


def answered(question):
    """Answer as a process would, at once."""
    future = Future()
    future.set_result(plan_worker.answer(question, b""))
    return future


def library():
    return Cudnn(SimulatedDevice(), fake_cudnn)


def refuse(*_):
    raise AssertionError("planned here")


def test_what_a_process_made_is_taken_over(monkeypatch):
    cudnn = library()
    answer = cudnn.begin(PROBLEM, NAMES, "eng2_k2=7", answered)
    assert answer is not None and cudnn.begin(PROBLEM, NAMES, "eng2_k2=7", refuse) is answer
    monkeypatch.setattr(Planner, "plan", refuse)
    plan, workspace = cudnn.plan(PROBLEM, NAMES, "eng2_k2=7")
    assert workspace == 1024
    assert (
        cudnn.operation({**PROBLEM, "version": cudnn.version}, NAMES, plan).workspace_bytes == 1024
    )


def died(future):
    future.set_exception(BuildError("the compiler ended with status -9"))


def failed(future):
    future.set_result(({"error": "libcudnn cannot be loaded"}, b""))


@pytest.mark.parametrize("end", [died, failed, Future.cancel])
def test_what_came_to_nothing_is_planned_here(end):
    cudnn, future = library(), Future()
    assert cudnn.begin(PROBLEM, NAMES, "eng2_k2=7", lambda _: future) is future
    end(future)
    assert cudnn.plan(PROBLEM, NAMES, "eng2_k2=7")[1] == 1024


def test_what_was_cancelled_is_begun_again():
    cudnn, future = library(), Future()
    cudnn.begin(PROBLEM, NAMES, "eng0", lambda _: future)
    future.cancel()
    again = cudnn.begin(PROBLEM, NAMES, "eng0", answered)
    assert again is not future and again.done()


def test_known_plans_are_not_begun(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))
    cudnn = Cudnn(SimulatedDevice(), fake_cudnn, lambda version: PlanStore((version, "a model")))
    cudnn.plan(PROBLEM, NAMES, "eng0")
    assert cudnn.begin(PROBLEM, NAMES, "eng0", refuse) is None


def test_a_process_says_what_the_library_does_not_do():
    question = {"device": 0, "problem": PROBLEM, "names": NAMES}
    assert (
        "does not propose eng9"
        in plan_worker.answer(question | {"engine": "eng9"}, b"")[0]["error"]
    )
    said, plan = plan_worker.answer(question | {"engine": "eng1_k2=5"}, b"")
    assert "does not build a plan for eng1_k2=5" in said["error"] and not plan
    with pytest.raises(DeviceError, match="does not build a plan for eng1_k2=5"):
        library().plan(PROBLEM, NAMES, "eng1_k2=5")


class Planning(Requests):
    """Stands for the compiler; plans come when kernels are known."""

    asked_plans: list[str] = []

    def plan(self, question):
        """Return an answer that is there at once."""
        self.asked_plans.append(question["engine"])
        return answered(question)


class Bench(Times):
    """Stands for the bench; a library's kernels may be timed with it."""

    def begin_early_start(self):
        pass


def test_a_build_times_what_other_processes_planned(monkeypatch):
    bench = Bench(lambda trial: 1.0 if trial.candidate.tactic.startswith("cudnn") else 5.0)
    monkeypatch.setattr(measure_of_cuda, "Bench", bench)
    monkeypatch.setattr(refinement_of_cuda, "SECONDS", {})
    monkeypatch.setattr(
        compiler_of_cuda, "TACTICS", (CudnnConvolution(), TritonConvolution(), Generated())
    )
    monkeypatch.setattr(Planning, "asked_plans", [])
    device = SimulatedDevice()
    device.libraries["cudnn"] = Cudnn(device, fake_cudnn)
    target = dataclasses.replace(TARGETS[SIMULATED_ARCH], library=device.library)
    config = BuildConfig(target=f"cuda:sm_{SIMULATED_ARCH}", keep_graph=False, optimization_level=4)
    compiler = CudaCompiler(config, target, lambda *_: None, device)
    compiler.kernels = Planning
    cache = TimingCache(None, compiler.machine, compiler.toolchain)
    compiled = compiler.compile(parse_graph(JOINED, ops.BY_NAME), cache)
    steps = [s for s in compiled.section.program.steps if s.name == "convolution"]
    assert all(s.tactic.startswith("cudnn-conv") for s in steps)
    assert set(Planning.asked_plans) == {"eng0", "eng1_k2=5", "eng2_k2=7"}
    timed = {t.candidate.tactic for t in bench.asked if t.candidate.tactic.startswith("cudnn")}
    assert timed == {"cudnn-conv eng0", "cudnn-conv eng2_k2=7"}  # eng1 is not deterministic
