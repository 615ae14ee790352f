"""What cuDNN answered before: found again by question and version, never trusted blindly."""

from __future__ import annotations

import pytest
from tests.backends.cuda import fake_cudnn

from lamina.backends.cuda.library.cudnn import Cudnn
from lamina.backends.cuda.library.cudnn_planner import Planner
from lamina.backends.cuda.library.plan_store import PlanStore
from lamina.backends.cuda.simulated import SimulatedDevice

PROBLEM = {
    "kind": "convolution",
    "dtype": "f32",
    "compute": "f32",
    "x_shape": [1, 8, 4, 4],
    "x_strides": [128, 1, 32, 8],
    "w_shape": [8, 8, 1, 1],
    "w_strides": [8, 1, 8, 8],
    "y_shape": [1, 8, 4, 4],
    "y_strides": [128, 1, 32, 8],
    "pads_before": [0, 0],
    "pads_after": [0, 0],
    "strides": [1, 1],
    "dilations": [1, 1],
    "activation": None,
    "alpha": 0.0,
    "beta": 0.0,
}
NAMES = ("x", "w", "y")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))
    return tmp_path / "cudnn"


def library():
    return Cudnn(SimulatedDevice(), fake_cudnn, lambda version: PlanStore((version, "a model")))


def silent(monkeypatch):
    """Let the library answer nothing any more."""

    def refuse(*_, **__):
        raise AssertionError("asked again")

    monkeypatch.setattr(Planner, "proposals", refuse)


def test_answers_are_found_again(monkeypatch):
    first = library()
    engines = first.engines(PROBLEM, NAMES)
    assert len(engines) > 1
    plans = [first.plan(PROBLEM, NAMES, e) for e in engines[:1]]
    silent(monkeypatch)
    again = library()
    assert again.engines(PROBLEM, NAMES) == engines
    assert [again.plan(PROBLEM, NAMES, e) for e in engines[:1]] == plans
    with pytest.raises(AssertionError, match="asked again"):
        again.engines({**PROBLEM, "alpha": 1.0}, NAMES)


def test_another_version_or_device_is_asked_itself():
    store = PlanStore(("9.1", "a model"))
    store.keep_engines("question", ["eng0"])
    store.keep_plan("other", b"plan", 8)
    assert store.engines("question") == ["eng0"]
    assert store.plan("other") == (b"plan", 8)
    for about in (("9.2", "a model"), ("9.1", "another model")):
        assert PlanStore(about).engines("question") is None
        assert PlanStore(about).plan("other") is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"engines": 3}', '{"plan": "AAAA", "digest": "0"}', "[" * 10**5]
)
def test_damaged_files_are_no_answers(folder, text):
    store = PlanStore(("9.1",))
    store.keep_engines("e", ["eng0"])
    store.keep_plan("p", b"plan", 8)
    for path in folder.iterdir():
        path.write_text(text)
    assert store.engines("e") is None and store.plan("p") is None


def test_a_place_that_cannot_be_written_is_no_error(folder):
    folder.write_text("a file")
    store = PlanStore(("9.1",))
    store.keep_engines("e", ["eng0"])
    assert store.engines("e") is None
