"""What layers move and compute, their floors, and traces of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import lamina
from lamina import ceilings as ceilings_of_devices
from lamina import ops
from lamina.backends.cpu.driver import CpuDriver
from lamina.ir.text import parse_graph
from lamina.plan.format import read_plan
from lamina.runtime.layers import (
    Ceilings,
    LayerTime,
    LayerWork,
    Sizes,
    bound_sizes,
    layer_work,
)
from lamina.runtime.trace import chrome_trace
from lamina.tactics.operations import operations
from tests.backends.cuda.simulation import simulated

TEXT = """graph(%x: f32[n,64]) {
  %w = const() type=f32[64,32] seed=1
  %m = matmul(%x, %w)
  %y = softmax(%m) axis=1
  return %y
}"""


def only(text: str) -> object:
    """Return the operations of a graph's last node."""
    graph = parse_graph(text, ops.BY_NAME)
    return operations(graph.outputs[0].node)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "operands, node, expected",
    [
        (
            "%x: f32[2,8,6,6], %w: f32[16,4,3,3]",
            "convolution(%x, %w) groups=2",
            64 * 16 * 36,
        ),
        ("%x: f32[2,8,4,4], %w: f32[8,3,2,2]", "deconvolution(%x, %w)", 2 * 2 * 8 * 16 * 3 * 4),
        ("%x: f32[5,7,9], %w: f32[9,4]", "matmul(%x, %w)", 2 * 5 * 7 * 4 * 9),
        ("%x: f32[9,7], %w: f32[9,4]", "matmul(%x, %w) transpose_a=true", 2 * 7 * 4 * 9),
        ("%x: f32[5,7]", "activation(%x) kind=relu", 35),
    ],
)
def test_operations_are_those_of_the_operator(operands: str, node: str, expected: int) -> None:
    if "conv" in node:
        node += " strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)"
    if "deconv" in node:
        node += " output_padding=(0,0)"
    assert only(f"graph({operands}) {{\n  %y = {node}\n  return %y\n}}") == expected


def test_attention_counts_the_pairs_that_it_looks_at() -> None:
    operands = "%q: f16[2,4,16,8], %k: f16[2,4,32,8], %v: f16[2,4,32,8]"
    text = "graph({}) {{\n  %y = attention(%q, %k, %v) scale=1.0{}\n  return %y\n}}"
    whole = only(text.format(operands, ""))
    assert whole == 2 * 2 * 4 * 16 * 32 * 16
    assert only(text.format(operands, " causal=true")) == whole // 2  # type: ignore[operator]


SHAPES = {"x": ((1, 64), (4, 64), (16, 64))}


@pytest.mark.parametrize("build", [lamina.build, simulated], ids=["cpu", "cuda"])
def test_plans_hold_what_layers_compute(build: object) -> None:
    engine = build(parse_graph(TEXT, ops.BY_NAME), shapes=SHAPES)  # type: ignore[operator]
    section = read_plan(engine.serialize()).sections[0]
    assert section.operations == engine.section.operations
    work = layer_work(section, bound_sizes(section.program, {"x": np.ones((8, 64), np.float32)}))
    names = [s.name for s in section.program.steps]
    product = work[names.index("matmul")]
    assert (product.operations, product.dtype) == (2 * 8 * 32 * 64, "f32")
    assert product.bytes_moved >= 4 * (8 * 64 + 64 * 32 + 8 * 32)


def test_a_profile_says_how_far_layers_are_from_their_floors() -> None:
    engine = lamina.build(parse_graph(TEXT, ops.BY_NAME), shapes=SHAPES)
    most = Ceilings(1000.0, {"f32": 100.0})
    layers = engine.profile({"x": np.ones((8, 64), np.float32)}, runs=2, ceilings=most)
    product = next(x for x in layers if x.name == "matmul")
    assert product.floor_microseconds == pytest.approx(
        max(product.bytes_moved / 1000.0, product.operations / 100.0)
    )
    assert product.times_floor == product.microseconds / product.floor_microseconds
    assert all(x.microseconds > 0 and x.bytes_moved > 0 for x in layers)
    assert not any(x.floor_microseconds for x in engine.profile(runs=1))


def test_what_picks_reads_no_more_than_it_writes() -> None:
    text = "graph(%x: f32[1000,16], %i: i64[3]) {\n  %y = gather(%x, %i) axis=0\n  return %y\n}"
    engine = lamina.build(parse_graph(text, ops.BY_NAME))
    (gather,) = layer_work(engine.section, Sizes())
    assert gather.bytes_moved == 2 * 3 * 16 * 4 + 3 * 8


def test_sizes_that_are_not_known_count_nothing() -> None:
    engine = lamina.build(parse_graph(TEXT, ops.BY_NAME), timing_cache="")
    assert all(w.operations == 0 for w in layer_work(engine.section, Sizes()))
    assert LayerWork(100, 100, "i8").floor(Ceilings(10.0, {})) == 10.0
    assert LayerWork(100, 100, "f32").floor(None) == 0.0


def test_a_trace_holds_every_layer_once() -> None:
    layers = [
        LayerTime("conv", "c (Conv)", "fast", 10.0, 4000, 8000, 5.0),
        LayerTime("pool", "p (MaxPool)", "", 5.0),
    ]
    trace = json.loads(json.dumps(chrome_trace("net on cpu", layers)))
    events = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    run, first, second = events
    assert run["dur"] == 15.0
    assert (first["ts"], first["dur"], second["ts"], second["dur"]) == (0.0, 10.0, 10.0, 5.0)
    assert first["args"] == {
        "number": 0,
        "from": "c (Conv)",
        "tactic": "fast",
        "bytes": 4000,
        "operations": 8000,
        "floor_microseconds": 5.0,
        "times_floor": 2.0,
    }
    rates = [e["args"] for e in trace["traceEvents"] if e["ph"] == "C"]
    assert rates[0] == {"GB/s": 0.4, "GFLOP/s": 0.8}
    names = {e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"}
    assert names == {"net on cpu", "run", "layers"}


def test_ceilings_are_measured_once(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(ceilings_of_devices, "_COPIED", {"cpu": 1 << 12})
    monkeypatch.setattr(ceilings_of_devices, "_SIDE", {"cpu": 32})
    driver = CpuDriver(None)
    found = ceilings_of_devices.measure_ceilings(driver, ["f32", "i8", "f32"])
    assert found.bytes_per_microsecond > 0
    assert list(found.operations_per_microsecond) == ["f32"]

    def refuse(*_: object) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr(ceilings_of_devices, "_measured", refuse)
    assert ceilings_of_devices.measure_ceilings(driver, ["f32"]) == found
    (tmp_path / "ceilings.json").write_text("[]")
    with pytest.raises(AssertionError, match="measured again"):
        ceilings_of_devices.measure_ceilings(driver, ["f32"])


def test_regions_count_what_is_inside() -> None:
    graph = parse_graph(TEXT.replace("n,64", "4,64"), ops.BY_NAME)
    engine = lamina.build(graph)
    assert sum(int(n) for n in engine.section.operations) >= 2 * 4 * 32 * 64  # type: ignore[arg-type]
