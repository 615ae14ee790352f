"""Whole models in each precision: what they compute, and what is left in their graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import lamina
from lamina import ops
from lamina.backends.cpu.features import cpu_features
from lamina.errors import ConfigError
from lamina.importers.onnx import load
from lamina.ir.interpret import interpret
from lamina.ir.text import parse_graph
from lamina.ir.types import DType
from lamina.ir.verify import verify
from lamina.passes.specialize import specialize
from lamina.precision.pipeline import (
    decide_precision,
    finish_precision,
    missing_feature,
    multiplies_integers,
)

DATA = Path(lamina.__file__).parent / "cli" / "data"
HELD_OUT = np.load(DATA / "digits_held_out.npz")
IMAGES, LABELS = HELD_OUT["images"], HELD_OUT["labels"]
FLOAT, QUANTIZED = DATA / "digits.onnx", DATA / "digits_int8.onnx"
BATCH = 32
NO_CACHE = {"timing_cache": "", "optimization_level": 0, "threads": 2}


def sqnr_db(wanted, got):
    """Return the ratio of signal to error in decibels."""
    wanted = wanted.astype(np.float64)
    error = ((wanted - got.astype(np.float64)) ** 2).sum()
    return 10 * np.log10((wanted**2).sum() / max(error, 1e-30))


def meaning(path, images):
    (logits,) = interpret(specialize(load(path), {"batch": len(images)}), [images])
    return logits


def engine(path, precision, batch=BATCH):
    shapes = {"image": (batch, 1, 8, 8)}
    return lamina.build(path, precision=precision, shapes=shapes, **NO_CACHE)


def logits(built, images):
    return built.run({"image": images})["logits"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_quantized_digits_mean_what_the_model_says(precision):
    images = IMAGES[:BATCH]
    built = engine(QUANTIZED, precision)
    assert not built.plan.fallbacks
    got = logits(built, images)
    assert got.dtype == np.float32
    # fp32 keeps every rounding, up to ties; int8 leaves the last one out.
    assert sqnr_db(meaning(QUANTIZED, images), got) >= (40 if precision == "fp32" else 32)
    session = onnxruntime.InferenceSession(QUANTIZED, providers=["CPUExecutionProvider"])
    assert sqnr_db(session.run(None, {"image": images})[0], got) >= 32


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_quantized_digits_keep_their_accuracy(precision):
    count = len(IMAGES)
    plain = logits(engine(FLOAT, "fp32", count), IMAGES)
    narrow = logits(engine(QUANTIZED, precision, count), IMAGES)
    accuracies = [float((y.argmax(1) == LABELS).mean()) for y in (plain, narrow)]
    assert accuracies[0] > 0.95
    assert accuracies[1] >= accuracies[0] - 0.01


def test_quantized_digits_with_a_symbolic_batch():
    built = lamina.build(
        QUANTIZED, precision="int8", shapes={"image": ((1, 1, 8, 8), (4, 1, 8, 8), (16, 1, 8, 8))},
        **NO_CACHE,
    )  # fmt: skip
    for batch in (1, 3, 16):
        images = IMAGES[:batch]
        assert sqnr_db(meaning(QUANTIZED, images), logits(built, images)) >= 30


@pytest.mark.skipif("avx512bf16" not in cpu_features(), reason="the CPU has no bf16 arithmetic")
def test_bf16_digits():
    images = IMAGES[:BATCH]
    built = engine(FLOAT, "bf16")
    assert not built.plan.fallbacks
    got = logits(built, images)
    assert got.dtype == np.float32
    assert 30 <= sqnr_db(meaning(FLOAT, images), got) <= 70


def test_fp16_digits_are_smaller_and_survive_the_file(tmp_path):
    images = IMAGES[:BATCH]
    built = engine(FLOAT, "fp16")
    path = tmp_path / "digits.plan"
    built.save(path)
    assert path.stat().st_size < 0.75 * len(engine(FLOAT, "fp32").serialize())
    got = logits(built, images)
    assert 50 <= sqnr_db(meaning(FLOAT, images), got) <= 90
    np.testing.assert_array_equal(logits(lamina.load(path), images), got)


def test_int8_needs_a_quantized_model():
    with pytest.raises(ConfigError, match="QuantizeLinear") as caught:
        lamina.build(FLOAT, precision="int8", shapes={"image": (1, 1, 8, 8)})
    assert "quantize_static" in str(caught.value)


def test_bf16_needs_a_cpu_that_has_it(monkeypatch):
    assert missing_feature("bf16", {"avx2", "avx512vnni"}) == "avx512_bf16"
    assert missing_feature("int8", {"avx2"}) is None
    monkeypatch.setattr("lamina.builder.cpu_features", lambda: frozenset({"avx2"}))
    with pytest.raises(ConfigError, match="avx512_bf16"):
        lamina.build(FLOAT, precision="bf16", shapes={"image": (1, 1, 8, 8)})


BLOCK = """
graph(%q: u8[1,16,6,6], %r: u8[1,16,6,6]) {
  %s = const() type=f32[] value=0.0625
  %z = const() type=u8[] value=120
  %zero = const() type=u8[] value=0
  %x = dequantize(%q, %s, %z) dtype=f32
  %side = dequantize(%r, %s, %z) dtype=f32
  %v = const() type=i8[16,16,3,3] seed=1
  %t = const() type=f32[] value=0.03125
  %w = dequantize(%v, %t) dtype=f32
  %a = convolution(%x, %w) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
  %sa = const() type=f32[] value=0.25
  %qa = quantize(%a, %sa, %z) dtype=u8
  %da = dequantize(%qa, %sa, %z) dtype=f32
  %sum = binary(%da, %side) kind=add
  %pos = activation(%sum) kind=relu
  %sp = const() type=f32[] value=0.125
  %qp = quantize(%pos, %sp, %zero) dtype=u8
  %dp = dequantize(%qp, %sp, %zero) dtype=f32
  %joined = concat(%dp, %x) axis=1
  %sj = const() type=f32[] value=0.15
  %qj = quantize(%joined, %sj, %z) dtype=u8
  %dj = dequantize(%qj, %sj, %z) dtype=f32
  %max = pool(%dj) kind=max kernel=(2,2) strides=(2,2) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
  %qm = quantize(%max, %sj, %z) dtype=u8
  %dm = dequantize(%qm, %sj, %z) dtype=f32
  %mean = reduce(%dm) kind=mean axes=(2,3)
  return %mean
}
"""  # noqa: E501


def decided(precision, **options):
    graph = parse_graph(BLOCK, ops.BY_NAME)
    decide_precision(graph, precision, **options)
    finish_precision(graph, precision)
    verify(graph)
    return graph


def block_inputs():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (1, 16, 6, 6)).astype(np.uint8) for _ in range(2)]


@pytest.mark.parametrize(("precision", "sqnr"), [("fp32", 60), ("int8", 30)])
def test_residual_block(precision, sqnr):
    (wanted,) = interpret(parse_graph(BLOCK, ops.BY_NAME), block_inputs())
    graph = decided(precision)
    assert sqnr_db(wanted, interpret(graph, block_inputs())[0]) >= sqnr
    built = lamina.build(graph, precision="fp32", **NO_CACHE)
    given = dict(zip(("q", "r"), block_inputs(), strict=True))
    (got,) = built.run(given).values()
    assert sqnr_db(interpret(graph, block_inputs())[0], got) >= 40


def test_int8_leaves_out_the_rounding_before_the_residual():
    (exact,) = (n for n in decided("fp32").nodes() if isinstance(n.op, ops.QuantizedConvolution))
    (fused,) = (n for n in decided("int8").nodes() if isinstance(n.op, ops.QuantizedConvolution))
    assert exact.op.rounding.scale == 0.25
    assert fused.op.rounding is None
    for node in (exact, fused):
        assert node.op.residual_scaling.scale == 0.0625
        assert node.output.tensor.dtype is DType.U8


def test_8_bit_values_flow_through_pools_and_concatenations():
    for node in decided("int8").nodes():
        if isinstance(node.op, ops.Pool | ops.Concat):
            assert {v.tensor.dtype for v in node.inputs} == {DType.U8}


def test_without_integer_products_the_numbers_are_multiplied():
    assert multiplies_integers({"avx512vnni"})
    assert not multiplies_integers({"avx2", "fma"})
    graph = decided("fp32", integers=False)
    kinds = {type(n.op) for n in graph.nodes()}
    assert ops.QuantizedConvolution not in kinds
    assert ops.Convolution in kinds
    (wanted,) = interpret(parse_graph(BLOCK, ops.BY_NAME), block_inputs())
    assert sqnr_db(wanted, interpret(graph, block_inputs())[0]) >= 60
