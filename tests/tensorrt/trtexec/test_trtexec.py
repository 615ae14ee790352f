"""trtexec's options and output."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lamina.backends.cuda import driver
from lamina.cli.trtexec import run
from lamina.cli.trtexec.accuracy import loss
from lamina.cli.trtexec.arguments import parse
from lamina.cli.trtexec.buffers import runs_of
from lamina.cli.trtexec.measuring import Limits, measure
from lamina.cli.trtexec.specs import io_types, matching, pairs, shapes
from lamina.cli.trtexec.trace import percentile
from lamina.errors import ConfigError
from lamina.runtime.engine import Engine
from tests.backends.cuda.sections import Recorder, chain, chained, plan_of
from tests.tensorrt.running import random

W = random(4, 3)
QUICK = ("--builderOptimizationLevel=0", "--duration=0", "--warmUp=1", "--iterations=20")
NUMBERS = r"min = \S+ ms, max = \S+ ms, mean = \S+ ms, median = \S+ ms"


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAMINA_TENSORRT_DEVICE", "cpu")
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x:0", "w"], ["h"], name="fc"),
            helper.make_node("Relu", ["h"], ["y"], name="act"),
        ],
        "g",
        [helper.make_tensor_value_info("x:0", onnx.TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(W, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    return path


def call(capsys: Any, *words: str) -> tuple[int, str]:
    code = run(words, "trtexec")
    out = capsys.readouterr()
    return code, out.out + out.err


def test_the_output_is_what_scripts_look_for(file: Path, capsys: Any) -> None:
    code, text = call(capsys, f"--onnx={file}", "--shapes='x:0':2x4", *QUICK)
    assert code == 0, text
    assert text.startswith("&&&& RUNNING TensorRT.trtexec [TensorRT v101601]")
    assert "&&&& PASSED TensorRT.trtexec" in text.splitlines()[-1]
    assert "No GPU is used" in text
    for line in (
        r"=== (Model|Build|System|Inference|Reporting) Options ===",
        r"=== Device Information ===",
        r"Finished parsing network model\. Parse time: \S+",
        r"Created engine with size: \S+ MiB",
        r"Engine built in \S+ sec\.",
        r"Warmup completed \d+ queries over \d+ ms",
        r"Timing trace has 20 queries over \S+ s",
        r"Average on 10 runs - GPU latency: \S+ ms - Host latency: \S+ ms \(enqueue \S+ ms\)",
        r"=== Performance summary ===",
        r"Throughput: \S+ qps",
        rf"Latency: {NUMBERS}, percentile\(90%\) = \S+ ms, percentile\(95%\)",
        rf"Enqueue Time: {NUMBERS}",
        rf"H2D Latency: {NUMBERS}",
        rf"GPU Compute Time: {NUMBERS}",
        rf"D2H Latency: {NUMBERS}",
        r"Total Host Walltime: \S+ s",
        r"Total GPU Compute Time: \S+ s",
    ):
        assert re.search(rf"^\[\d\d/\d\d/\d{{4}}-[\d:]{{8}}\] \[I\] {line}", text, re.M), line


def test_engines_files_and_reference_outputs(file: Path, tmp_path: Path, capsys: Any) -> None:
    x = random(2, 4, seed=1)
    x.tofile(tmp_path / "x.bin")
    np.maximum(x @ W, 0).astype(np.float32).tofile(tmp_path / "y.bin")
    np.zeros((2, 3), np.float32).tofile(tmp_path / "zero.bin")
    engine = f"{tmp_path}/e.plan"
    names = ("Times", "Output", "Profile", "LayerInfo")
    code, text = call(
        capsys,
        f"--onnx={file}",
        "--minShapes='x:0':1x4",
        "--optShapes='x:0':2x4",
        "--maxShapes='x:0':8x4",
        "--shapes='x:0':2x4",
        f"--saveEngine={engine}",
        f"--timingCacheFile={tmp_path}/times",
        "--profilingVerbosity=detailed",
        f"--loadInputs='x:0':{tmp_path}/x.bin",
        *(f"--export{name}={tmp_path}/{name}.json" for name in names),
        "--dumpProfile",
        "--dumpOutput",
        "--dumpOptimizationProfile",
        *QUICK,
    )
    assert code == 0, text
    times, output, profile, layers = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in names
    )
    assert len(times) == 20
    assert times[0].keys() >= {"startEnqMs", "endComputeMs", "h2dMs", "computeMs", "latencyMs"}
    assert output[0]["dimensions"] == "2x3"
    np.testing.assert_allclose(
        output[0]["values"], np.maximum(x @ W, 0).reshape(-1), rtol=1e-5, atol=1e-6
    )
    assert profile[0]["count"] >= 10
    assert {"name", "timeMs", "averageMs", "medianMs", "percentage"} == profile[1].keys()
    assert layers["Layers"] and "x:0" in layers["Bindings"]
    assert Path(f"{tmp_path}/times").stat().st_size > 0
    assert "min=1x4, opt=2x4, max=8x4" in text

    loaded = (f"--loadEngine={engine}", "--shapes='x:0':2x4", *QUICK)
    given = f"--loadInputs='x:0':{tmp_path}/x.bin"
    assert call(capsys, *loaded, given, f"--loadRefOutputs=y:{tmp_path}/y.bin")[0] == 0
    code, text = call(capsys, *loaded, given, f"--loadRefOutputs=y:{tmp_path}/zero.bin")
    assert code == 1 and "FAILED" in text
    assert call(capsys, *loaded, "--infStreams=2")[0] == 0
    code, text = call(capsys, f"--loadEngine={engine}", "--getPlanVersionOnly")
    assert code == 0 and "10.16" in text
    code, text = call(capsys, *loaded, f"--loadInputs='x:0':{engine}")
    assert code == 1 and "needs 32" in text


def test_what_goes_wrong_is_said(file: Path, tmp_path: Path, capsys: Any) -> None:
    for words, reason in (
        (["--nonsense"], "Unknown option: --nonsense"),
        (["--onnx"], "--onnx needs a value"),
        ([], "Model missing"),
        (["--onnx=/nowhere.onnx"], "/nowhere.onnx"),
        ([f"--loadEngine={file}"], "deserialization failed"),
        ([f"--onnx={file}", "--useDLACore=0"], "DLA"),
        ([f"--onnx={file}", "--iterations=many"], "not a number"),
    ):
        code, text = call(capsys, *words)
        assert code == 1
        assert reason in text, text
        assert text.rstrip().splitlines()[-1].startswith("&&&& FAILED") or "&&&& FAILED" in text


def test_help_and_options_without_effect(file: Path, capsys: Any) -> None:
    code, text = call(capsys, "--help")
    assert code == 0 and "--saveEngine=FILE" in text
    code, text = call(
        capsys, f"--onnx={file}", "--skipInference", "--sparsity=enable", "--int8", *QUICK
    )
    assert code == 0
    assert "--sparsity changes nothing" in text
    assert "INT8 without --calib" in text
    assert "Performance summary" not in text


def test_formats_of_inputs_and_outputs(tmp_path: Path, capsys: Any) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="act")],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3, 4, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path, engine = tmp_path / "relu.onnx", tmp_path / "relu.engine"
    onnx.save(model, path)
    shapes = ("--minShapes=x:1x3x4x4", "--optShapes=x:2x3x4x4", "--maxShapes=x:4x3x4x4")
    formats = ("--inputIOFormats=fp32:chw4", "--outputIOFormats=fp32:hwc8")
    code, text = call(capsys, f"--onnx={path}", f"--saveEngine={engine}", *shapes, *formats, *QUICK)
    assert code == 0, text
    code, text = call(capsys, f"--loadEngine={engine}", "--shapes=x:3x3x4x4", *QUICK)
    assert code == 0, text
    code, text = call(capsys, f"--onnx={path}", "--directIO", *shapes, *formats, *QUICK)
    assert code != 0 and "DIRECT_IO is set" in text


def test_specifications() -> None:
    assert shapes("'a:0':1x2,b:scalar,c:") == {"a:0": (1, 2), "b": (), "c": ()}
    assert matching({"in*": (3,)}, "input") == (3,)
    assert pairs("x:/a/b") == {"x": "/a/b"}
    assert io_types("fp16:chw", 2) == [("HALF", ("LINEAR",))] * 2
    assert io_types("fp16,int8:chw4+hwc", 2)[1] == ("INT8", ("CHW4", "HWC"))
    for wrong in (
        lambda: shapes("x:1xa"),
        lambda: io_types("fp16,fp16,fp16", 2),
        lambda: io_types("fp16:wch", 1),
    ):
        with pytest.raises(ConfigError):
            wrong()
    given = parse(["--profile=0", "--minShapes=x:1", "--profile=1", "--minShapes=x:2"])
    assert given.numbers("minShapes") == [0, 1]
    assert given.text("minShapes", 1) == "x:2"


def test_percentiles_and_losses() -> None:
    times = [float(i) for i in range(1, 101)]
    assert percentile(times, 90) == 90
    assert percentile(times, 100) == 100
    assert percentile(times, 0) == 1
    a, b = np.float32([1, 2, 3]), np.float32([1, 2, 5])
    for algorithm, expected in (("L0", 1 / 3), ("L1", 2 / 3), ("L2", 4 / 3), ("Linf", 2)):
        assert loss(algorithm, a, b, atol=1e-5, rtol=1e-5) == pytest.approx(expected)
    assert loss("cosine", a, a, atol=0, rtol=0) == pytest.approx(0)
    with pytest.raises(ConfigError):
        loss("L7", a, b, atol=0, rtol=0)


@pytest.mark.parametrize("transfers", [True, False])
def test_runs_on_a_device_are_timed_by_its_events(
    transfers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Recorder()
    made = driver.CudaDriver(device)
    monkeypatch.setattr(driver, "driver", lambda *_, **__: made)
    engine = Engine(plan_of(chain("n"), [("n", 1, 8, 16)]), device="cuda")
    x = np.arange(8, dtype=np.float32)
    runs = runs_of(engine, {"x": x}, transfers=transfers, arena_bytes=2 * 256)
    limits = Limits(iterations=5, seconds=0, warm_ms=0)
    measured = measure([runs], limits)
    assert len(measured.runs) == 5
    for one, following in pairwise(measured.runs):
        stamps = [one.start_h2d, one.end_h2d, one.end_compute, one.end_d2h, following.start_h2d]
        assert stamps == sorted(stamps) and one.enqueue > 0
    np.testing.assert_array_equal(runs.outputs()["y"], chained(x))
    assert device.calls["launch_graph"] >= 4, "the same arrays in every run"
    assert len(runs.profile()) == 3


def test_profiles_shapes_and_memory_pools(file: Path, tmp_path: Path, capsys: Any) -> None:
    engine = f"{tmp_path}/e.plan"
    profiles = (
        "--profile=0 --minShapes='x:0':1x4 --optShapes='x:0':2x4 --maxShapes='x:0':4x4 "
        "--profile=1 --minShapes='x:0':5x4 --optShapes='x:0':6x4 --maxShapes='x:0':8x4"
    ).split()
    settings = (
        "--memPoolSize=workspace:0.5G,tacticSharedMem:48K --avgTiming=2 --maxTactics=2 "
        "--tacticSources=-CUDNN,+CUBLAS --layerDeviceTypes=fc:GPU --maxAuxStreams=1 "
        "--hardwareCompatibilityLevel=ampere+ --preview=-profileSharing0806 "
        "--allowWeightStreaming --errorOnTimingCacheMiss=0"
    ).split()[:-1]
    code, text = call(capsys, f"--onnx={file}", *profiles, *settings, f"--saveEngine={engine}",
                      "--skipInference", *QUICK)  # fmt: skip
    assert code == 0, text
    load = (f"--loadEngine={engine}", *QUICK[1:])
    code, text = call(capsys, *load, "--useProfile=1", "--allocationStrategy=runtime",
                      "--weightStreamingBudget=50%", "--infStreams=2")  # fmt: skip
    assert code == 0 and "overriding shape to: 6x4" in text, text
    assert "Weight streaming budget: " in text
    code, text = call(capsys, *load, "--useProfile=1", "--shapes='x:0':2x4")
    assert code == 1 and "is outside the profile: 5x4 to 8x4" in text
    code, text = call(capsys, *load, "--useProfile=2")
    assert code == 1 and "the engine has 2 profiles" in text
    code, text = call(capsys, *load, "--timeDeserialize")
    assert code == 0 and re.search(
        r"Total deserialization time = \S+ milliseconds in 20 iterations, average time = \S+ "
        r"milliseconds, first time = \S+ milliseconds\.\n.*Deserialization Bandwidth = \S+ GB/s",
        text,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--memPoolSize=vram:4", "there is no pool 'vram'"),
        ("--memPoolSize=workspace:much", "'much' is no size"),
        ("--tacticSources=-NOBODY", "'NOBODY' is not known"),
        ("--hardwareCompatibilityLevel=all", "--hardwareCompatibilityLevel=all is not known"),
        ("--profilingVerbosity=loud", "--profilingVerbosity=loud is not known"),
        ("--tilingOptimizationLevel=9", "--tilingOptimizationLevel=9 is not known"),
        ("--layerDeviceTypes=*:TPU", "'TPU' is no device"),
        ("--precisionConstraints=maybe", "--precisionConstraints does not exist"),
        ("--saveEngine=/nowhere/e.plan", "cannot write the engine to '/nowhere/e.plan'"),
        ("--device=3", "--device=3: no GPU is used"),
        ("--minShapes=z:2x4", "--minShapes: there is no input 'z'"),
        ("--loadInputs=z:file", "--loadInputs: there is no input 'z'"),
        ("--minShapes='x:0':3x4 --optShapes='x:0':2x4", "min <= opt <= max"),
        ("--allocationStrategy=later", "--allocationStrategy=later is not known"),
        ("--avgRuns=many", "--avgRuns=many is not a number"),
        ("--staticPlugins=/nowhere.py", "there is no file '/nowhere.py'"),
        ("--exportTimes=/nowhere/x.json", "No such file or directory: '/nowhere/x.json'"),
    ],
)
def test_values_that_do_not_exist(file: Path, capsys: Any, words: str, message: str) -> None:
    code, text = call(capsys, f"--onnx={file}", "--shapes='x:0':2x4", *words.split(), *QUICK)
    assert code == 1 and message in text, text
    assert "Traceback" not in text and "\n&&&& FAILED TensorRT.trtexec" in text


def test_a_plugin_file_that_fails_shows_where(file: Path, tmp_path: Path, capsys: Any) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text("number = 1\nraise RuntimeError('the plugin is broken')\n")
    code, text = call(capsys, f"--onnx={file}", f"--dynamicPlugins={plugin}", *QUICK)
    assert code == 1 and "plugin.py" in text and "line 2" in text
    assert "RuntimeError: the plugin is broken" in text and "&&&& FAILED" in text


def test_weights_are_stripped_and_come_back_from_the_model(
    file: Path, tmp_path: Path, capsys: Any
) -> None:
    model = onnx.load(file)
    large = random(4, 300, seed=5)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(large, "w"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 300
    onnx.save(model, file)
    x = random(2, 4, seed=1)
    x.tofile(tmp_path / "x.bin")
    engine = f"{tmp_path}/e.plan"
    shapes = "--shapes='x:0':2x4"
    code, text = call(capsys, f"--onnx={file}", shapes, "--stripWeights", f"--saveEngine={engine}",
                      "--skipInference", *QUICK)  # fmt: skip
    assert code == 0, text
    assert large.tobytes()[:400] not in Path(engine).read_bytes()
    load = (f"--loadEngine={engine}", shapes, f"--loadInputs='x:0':{tmp_path}/x.bin", *QUICK[1:])
    code, text = call(capsys, *load)
    assert code == 1 and "saved without its weights" in text
    code, text = call(capsys, *load, f"--refitFromOnnx={file}", f"--exportOutput={tmp_path}/y.json")
    assert code == 0, text
    found = json.loads((tmp_path / "y.json").read_text())[0]["values"]
    np.testing.assert_allclose(found, np.maximum(x @ large, 0).reshape(-1), rtol=1e-5, atol=1e-6)
