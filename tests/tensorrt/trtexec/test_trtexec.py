"""trtexec's options and output."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lamina.cli.trtexec import run
from lamina.cli.trtexec.accuracy import loss
from lamina.cli.trtexec.arguments import parse
from lamina.cli.trtexec.specs import io_types, matching, pairs, shapes
from lamina.cli.trtexec.trace import percentile
from lamina.errors import ConfigError
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


def test_specifications() -> None:
    assert shapes("'a:0':1x2,b:scalar,c:") == {"a:0": (1, 2), "b": (), "c": ()}
    assert matching({"in*": (3,)}, "input") == (3,)
    assert pairs("x:/a/b") == {"x": "/a/b"}
    assert io_types("fp16:chw", 2) == ["HALF", "HALF"]
    for wrong in (lambda: shapes("x:1xa"), lambda: io_types("fp16,fp16,fp16", 2)):
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
