"""The build as a whole: interrupts, progress, options, reproducibility."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

import lamina
from lamina.codegen.llvm.compile_pool import CompilePool
from lamina.codegen.workers import Message
from lamina.config import BUILT, BuildConfig, ProgressEvent
from lamina.errors import BuildInterrupted, ConfigError, ImportFailed, LaminaError
from lamina.plan.plan import StepKind
from lamina.respecialize import plan_config
from tests.plan.plans import CONVOLUTION, DYNAMIC, SHAPES, graph

STAGES = ("import", "optimize", "tactics", "compile")


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def _children() -> set[int]:
    """Processes that this one started and that still exist, finished ones included."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread may have ended
            found |= set(map(int, (task / "children").read_text().split()))
    return found


def _many_kernels() -> lamina.Graph:
    """A graph of 80 kernels that all differ, compiled by several processes."""
    numbers = range(80)
    inputs = ", ".join(f"%x{i}: f32[3,{i + 2}]" for i in numbers)
    body = "\n".join(f"  %y{i} = reduce(%x{i}) kind=max axes=(1,) keepdims=false" for i in numbers)
    returned = ", ".join(f"%y{i}" for i in numbers)
    return graph(f"graph({inputs}) {{\n{body}\n  return {returned}\n}}")


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_ends_the_build_and_writes_nothing(stage: str, tmp_path: Path) -> None:
    def progress(event: ProgressEvent) -> None:
        if event.stage == stage:
            raise KeyboardInterrupt

    before = _children()
    with pytest.raises(BuildInterrupted, match="nothing was written"):
        lamina.build(graph(CONVOLUTION), progress=progress)
    assert _children() == before
    assert list(tmp_path.rglob("*")) == []


def test_an_interrupt_ends_the_processes_that_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _children()
    seen: list[set[int]] = []

    def interrupted(pool: CompilePool, text: str, *, level: int = 1) -> Future[Message]:
        begun = real(pool, text, level=level)
        assert begun.result()
        seen.append(_children() - before)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return begun

    real = CompilePool.submit
    monkeypatch.setattr(CompilePool, "submit", interrupted)
    with pytest.raises(BuildInterrupted):
        lamina.build(_many_kernels(), timing_cache="", optimization_level=0)
    assert all(seen)
    assert _children() == before


def test_progress_names_the_stages_in_order() -> None:
    events: list[ProgressEvent] = []
    lamina.build(graph(CONVOLUTION), timing_cache="", progress=events.append)
    assert list(dict.fromkeys(e.stage for e in events)) == [*STAGES, BUILT]
    assert "kernels" in events[-1].item
    assert all(0 <= e.done <= max(1, e.total) for e in events)


def test_the_same_model_and_the_same_cache_give_the_same_bytes(tmp_path: Path) -> None:
    cache = str(tmp_path / "timing.json")
    first = lamina.build(graph(CONVOLUTION), timing_cache=cache)
    text = Path(cache).read_text()
    for _ in range(2):
        again = lamina.build(graph(CONVOLUTION), timing_cache=cache)
        assert again.serialize() == first.serialize()
    assert Path(cache).read_text() == text
    loaded = lamina.load(first.serialize())
    assert loaded.serialize() == first.serialize()


def test_a_dynamic_model_is_reproducible_too(tmp_path: Path) -> None:
    cache = str(tmp_path / "timing.json")
    builds = [
        lamina.build(graph(DYNAMIC), shapes=SHAPES[DYNAMIC], timing_cache=cache).serialize()
        for _ in range(2)
    ]
    assert builds[0] == builds[1]


def test_the_cache_lies_where_the_environment_says(tmp_path: Path) -> None:
    lamina.build(graph(CONVOLUTION))
    assert (tmp_path / "cache" / "timing.json").is_file()
    assert os.listdir(tmp_path / "cache") == ["timing.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp99"}, "precision 'fp99' is not known"),
        ({"target": "tpu"}, "target 'tpu' is not available"),
        ({"optimization_level": 9}, "optimization level 9 is not between 0 and 5"),
        ({"threads": -2}, "-2 threads"),
        ({"without": ("NoSuchPass",)}, "there is no pass NoSuchPass"),
        ({"shapes": {"z": (1, 2)}}, "there is no input 'z'"),
        ({"target": 0}, "target 0 is not text"),
        ({"workspace_bytes": -1}, "a workspace of -1 bytes"),
        ({"shapes": {"x": (1, 2)}}, "the shape given is"),
        ({"shapes": {"x": (1, 3, 8, 9)}}, "axis 3 of input 'x' is 8 in the model, .* says 9"),
        ({"verify": True, "surprise": 1}, r"unknown option \['surprise'\]"),
        ({"threads": "2"}, "'2' threads"),
        ({"optimization_level": None}, "optimization level None"),
        ({"shapes": [1, 3, 8, 8]}, "the shapes are a list"),
        ({"without": "MergeClip"}, "the nearest are MergeClips"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lamina.build(graph(CONVOLUTION), timing_cache="", **options)  # type: ignore[arg-type]


def test_shapes_that_disagree_name_the_symbol() -> None:
    shapes = {"x": (2, 12), "s": (3, 6)}
    with pytest.raises(ConfigError, match="b is 2 and 3 in the shapes given"):
        lamina.build(graph(DYNAMIC), shapes=shapes, timing_cache="")


def test_equal_shapes_make_a_model_static() -> None:
    engine = lamina.build(graph(DYNAMIC), shapes={"x": (2, 12)}, timing_cache="")
    assert [str(p.type) for p in engine.inputs] == ["f32[2,12]", "f32[2,6]"]
    assert engine.plan.ranges == ()


def test_the_graph_given_is_not_changed() -> None:
    from lamina.ir.text import print_graph

    source = graph(CONVOLUTION)
    before = print_graph(source, locs=True)
    lamina.build(source, timing_cache="")
    assert print_graph(source, locs=True) == before


@pytest.mark.parametrize("source", [b"", b"nonsense", "/none/model.onnx", 5, None])
def test_what_is_no_model_is_refused(source: object) -> None:
    with pytest.raises(LaminaError) as error:
        lamina.build(source, timing_cache="")
    assert isinstance(error.value, ImportFailed | ConfigError)


def test_the_reference_target_runs_everything_on_the_host() -> None:
    reference = lamina.build(graph(CONVOLUTION), target="reference", timing_cache="")
    assert all(layer.kind == "host" for layer in reference.inspect().layers)
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    built = lamina.build(graph(CONVOLUTION), timing_cache="")
    np.testing.assert_allclose(built(x), reference(x), rtol=1e-4, atol=1e-5)


def test_control_c_ends_a_build_in_the_middle_of_compiling(tmp_path: Path) -> None:
    """In a process group of its own, as a terminal makes it."""
    code = (
        "import os, signal, lamina\n"
        "from tests.test_builder import _many_kernels\n"
        "def progress(event):\n"
        "    if event.stage == 'compile':\n"
        "        os.killpg(0, signal.SIGINT)\n"
        "try:\n"
        "    lamina.build(_many_kernels(), optimization_level=0, progress=progress)\n"
        "except lamina.BuildInterrupted as e:\n"
        "    print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[1],
        start_new_session=True,
        check=False,
    )
    assert done.stdout == "the build was interrupted; nothing was written\n", done.stderr
    assert done.stderr == ""
    assert list(tmp_path.rglob("*")) == []


def test_rare_options_are_in_the_plan_where_they_are_set() -> None:
    usual = lamina.build(graph(CONVOLUTION), optimization_level=0).plan
    assert {"libraries", "on_host", "selector"}.isdisjoint(dict(usual.config))
    options = {"libraries": (), "workspace_bytes": 0, "full_precision": ("line 3",)}
    plan = lamina.build(graph(CONVOLUTION), optimization_level=0, **options).plan
    config = plan_config(plan)
    assert config.libraries == () and config.workspace_bytes == 0
    assert config.full_precision == ("line 3",) and config.selector is None
    assert StepKind.PRIMITIVE not in {s.kind for s in plan.sections[0].program.steps}


def test_options_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="library 'mkl' is not known"):
        BuildConfig(libraries=("mkl",))
    with pytest.raises(ConfigError, match="cannot be timed"):
        BuildConfig(timing_runs=0)
