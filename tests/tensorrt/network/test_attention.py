"""Attention, rotary embeddings, caches and experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from tests.tensorrt.running import Net, close, random

N = trt.AttentionNormalizationOp


def attention(q: Any, k: Any, v: Any, mask: Any = None, causal: bool = False) -> Any:
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scores = q @ k.swapaxes(2, 3)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    if causal:
        scores = np.where(np.tri(*scores.shape[2:], dtype=bool), scores, -np.inf)
    e = np.exp(scores - scores.max(3, keepdims=True))
    return e / e.sum(3, keepdims=True) @ v


def qkv(heads: int = 2) -> tuple[Any, Any, Any]:
    return random(2, 4, 5, 8) * 0.3, random(2, heads, 6, 8, seed=1), random(2, heads, 6, 8, seed=2)


def added(
    net: Net, arrays: tuple[Any, Any, Any], norm: Any = N.SOFTMAX, causal: bool = False
) -> Any:
    tensors = [net.input(n, a) for n, a in zip("qkv", arrays, strict=True)]
    return net.network.add_attention(*tensors, norm, causal)


@pytest.mark.parametrize("kind", ["none", "bool", "float", "causal"])
def test_attention(kind: str) -> None:
    net, arrays = Net(), qkv()
    layer = added(net, arrays, causal=kind == "causal")
    mask = None
    if kind in ("bool", "float"):
        mask = random(2, 4, 5, 6, seed=3)
        mask = mask > -1 if kind == "bool" else mask
        layer.mask = net.constant(mask)
    assert layer.num_inputs == (3 if mask is None else 4)
    layer.name = "attention"
    net.output(layer.get_output(0))
    wanted = attention(*arrays, mask, kind == "causal")
    close(net.run(**dict(zip("qkv", arrays, strict=True))), wanted, 1e-4)


def test_attention_without_normalization() -> None:
    net, arrays = Net(), qkv(4)
    net.output(added(net, arrays, N.NONE).get_output(0))
    q, k, v = arrays
    close(net.run(q=q, k=k, v=v), q @ k.swapaxes(2, 3) @ v, 1e-4)


def test_attention_with_rounded_probabilities() -> None:
    net, arrays = Net(), qkv()
    layer = added(net, arrays)
    layer.normalization_quantize_scale = net.constant(np.float32(1 / 448))
    layer.normalization_quantize_to_type = trt.fp8
    net.output(layer.get_output(0))
    got = net.run(**dict(zip("qkv", arrays, strict=True)))
    assert 0 < np.abs(got - attention(*arrays)).max() < 0.1


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim", [0, 4])
@pytest.mark.parametrize("cached", [False, True])
def test_rotary_embedding(interleaved: bool, dim: int, cached: bool) -> None:
    net, x = Net(), random(2, 3, 5, 8)
    turned = dim or 8
    angles = random(9, turned // 2, seed=1)
    places = np.random.default_rng(0).integers(0, 9, (2, 5)).astype(np.int32)
    tensor = net.input("x", x)
    tables = [f(angles) if cached else f(angles[places]) for f in (np.cos, np.sin)]
    caches = [net.constant(t) for t in tables]
    layer = net.network.add_rotary_embedding(tensor, *caches, interleaved, dim)
    if cached:
        layer.set_input(3, net.constant(places))
    net.output(layer.get_output(0))
    c, s = (f(angles[places])[:, None] for f in (np.cos, np.sin))
    wanted = x.copy()
    head = x[..., :turned]
    a, b = (head[..., ::2], head[..., 1::2]) if interleaved else np.split(head, 2, axis=3)
    left, right = a * c - b * s, a * s + b * c
    if interleaved:
        wanted[..., :turned:2], wanted[..., 1:turned:2] = left, right
    else:
        wanted[..., :turned] = np.concatenate([left, right], axis=3)
    close(net.run(x=x), wanted, 1e-5)


def test_updates_of_a_cache() -> None:
    net = Net()
    cache, new = random(2, 3, 8, 4), random(2, 3, 2, 4, seed=1)
    first = np.array([5, 0], np.int32)
    layer = net.network.add_kv_cache_update(
        net.input("cache", cache),
        net.input("new", new),
        net.input("first", first),
        trt.KVCacheMode.LINEAR,
    )
    net.output(layer.get_output(0))
    wanted = cache.copy()
    for b, start in enumerate(first):
        wanted[b, :, start : start + 2] = new[b]
    np.testing.assert_array_equal(net.run(cache=cache, new=new, first=first), wanted)


def test_a_mixture_of_experts() -> None:
    net, x = Net(), random(2, 3, 4)
    gate, up = random(5, 4, 6, seed=1), random(5, 4, 6, seed=2)
    down, biases = random(5, 6, 4, seed=3), [random(5, n, seed=n) for n in (6, 6, 4)]
    chosen = np.random.default_rng(0).integers(0, 5, (2, 3, 2)).astype(np.int32)
    scores = abs(random(2, 3, 2, seed=5))
    layer = net.network.add_moe(
        net.input("x", x), net.input("chosen", chosen), net.input("scores", scores)
    )
    weights = [net.constant(w) for w in (gate, up, down)]
    layer.set_gated_weights(*weights, trt.MoEActType.SILU)
    layer.set_gated_biases(*(net.constant(b) for b in biases))
    net.output(layer.get_output(0))
    wanted = np.zeros_like(x)
    for b, t, k in np.ndindex(2, 3, 2):
        e = chosen[b, t, k]
        g = x[b, t] @ gate[e] + biases[0][e]
        inner = g / (1 + np.exp(-g)) * (x[b, t] @ up[e] + biases[1][e])
        wanted[b, t] += scores[b, t, k] * (inner @ down[e] + biases[2][e])
    close(net.run(x=x, chosen=chosen, scores=scores), wanted, 1e-4)


def test_experts_with_scales_computed_for_blocks() -> None:
    import ml_dtypes

    net = Net()
    x, down = random(1, 3, 4), random(2, 8, 4)
    gate, up = random(2, 4, 8), random(2, 4, 8) + 0.5
    chosen = np.array([[[0], [1], [0]]], np.int32)
    scores = np.ones((1, 3, 1), np.float32)
    layer = net.network.add_moe(
        net.input("x", x), net.input("chosen", chosen), net.input("scores", scores)
    )
    weights = [net.constant(w) for w in (gate, up, down)]
    layer.set_gated_weights(*weights, trt.MoEActType.NONE)
    second = np.float32(0.1)
    layer.set_quantization_dynamic_dbl_q(
        net.constant(second), trt.fp8, trt.Dims((1, 1, 1, 4)), trt.fp8
    )
    net.output(layer.get_output(0))
    wanted = np.zeros_like(x)
    for t in range(3):
        e = chosen[0, t, 0]
        inner = (x[0, t] @ gate[e]) * (x[0, t] @ up[e])
        blocks = inner.reshape(2, 4)
        scale = np.abs(blocks).max(1, keepdims=True) / 448 / second
        real = scale.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * second
        inside = (blocks / real).clip(-448, 448)  # a scale that was rounded down saturates
        rounded = inside.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * real
        wanted[0, t] = rounded.reshape(8) @ down[e]
    close(net.run(x=x, chosen=chosen, scores=scores), wanted, 2e-2)


def test_a_collective_of_one_device_keeps_what_it_has() -> None:
    net, x = Net(), random(2, 3)
    layer = net.network.add_dist_collective(
        net.input("x", x), trt.CollectiveOperation.ALL_REDUCE, trt.ReduceOperation.SUM, -1, [0]
    )
    net.output(layer.get_output(0))
    close(net.run(x=x), x)


LENGTHS = (3, 1, 4)


@pytest.fixture
def _eleven() -> Iterator[None]:
    trt.use("11")
    yield
    trt.use("10")


def one_by_one(q: Any, k: Any, v: Any, causal: str) -> Any:
    """Return softmax(q @ k^T) @ v of one sequence, [tokens, heads, size]."""
    scores = np.einsum("thd,shd->hts", q, k)
    t, s = scores.shape[1:]
    offset = {"NONE": s, "UPPER_LEFT": 0, "LOWER_RIGHT": s - t}[causal]
    seen = np.arange(s)[None] <= np.arange(t)[:, None] + offset
    scores = np.where(seen, scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hts,shd->thd", scores / scores.sum(-1, keepdims=True), v)


def bounds(lengths: Any) -> Any:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


@pytest.mark.usefixtures("_eleven")
@pytest.mark.parametrize("causal", ["NONE", "UPPER_LEFT", "LOWER_RIGHT"])
@pytest.mark.parametrize("padded_keys", [False, True])
def test_packed_queries(causal: str, padded_keys: bool) -> None:
    net = Net()
    q, key_lengths = random(8, 2, 4), (3, 2, 5)
    places, keys = bounds(LENGTHS), bounds(key_lengths)
    k, v = random(10, 2, 4, seed=1), random(10, 2, 4, seed=2)
    if padded_keys:
        given_k, given_v = (np.full((3, 2, 6, 4), 9, np.float32) for _ in range(2))
        for b in range(3):
            for given, own in ((given_k, k), (given_v, v)):
                given[b, :, : key_lengths[b]] = own[keys[b] : keys[b + 1]].transpose(1, 0, 2)
    else:
        given_k, given_v = k, v
    lengths = np.array(key_lengths, np.int32) if padded_keys else keys
    tensors = [net.input(n, a) for n, a in zip("qkv", (q, given_k, given_v), strict=True)]
    layer = net.network.add_attention(*tensors, trt.AttentionNormalizationOp.SOFTMAX, False)
    layer.query_form = trt.AttentionIOForm.PACKED_NHD
    layer.query_lengths = net.input("ql", places)
    if not padded_keys:
        layer.key_value_form = trt.AttentionIOForm.PACKED_NHD
    layer.key_value_lengths = net.input("kl", lengths)
    layer.causal_kind = trt.CausalMaskKind.__members__[causal]
    net.output(layer.get_output(0))
    wanted = np.concatenate(
        [
            one_by_one(*(x[a:b] for x, (a, b) in zip((q, k, v), spans, strict=True)), causal)
            for spans in (
                [(places[i], places[i + 1]), *[(keys[i], keys[i + 1])] * 2] for i in range(3)
            )
        ]
    )
    close(net.run(q=q, k=given_k, v=given_v, ql=places, kl=lengths), wanted, 1e-4)


@pytest.mark.usefixtures("_eleven")
@pytest.mark.parametrize("causal", ["NONE", "LOWER_RIGHT"])
def test_padded_keys_with_lengths(causal: str) -> None:
    net = Net()
    q, k, v = random(2, 2, 2, 4), random(2, 2, 6, 4, seed=1), random(2, 2, 6, 4, seed=2)
    lengths = np.array([4, 6], np.int32)
    tensors = [net.input(n, a) for n, a in zip("qkv", (q, k, v), strict=True)]
    layer = net.network.add_attention(*tensors, trt.AttentionNormalizationOp.SOFTMAX, False)
    layer.key_value_lengths = net.input("kl", lengths)
    layer.causal_kind = trt.CausalMaskKind.__members__[causal]
    net.output(layer.get_output(0))
    wanted = np.stack(
        [
            one_by_one(
                q[b].transpose(1, 0, 2), *(x[b, :, :n].transpose(1, 0, 2) for x in (k, v)), causal
            ).transpose(1, 0, 2)
            for b, n in enumerate(lengths)
        ]
    )
    close(net.run(q=q, k=k, v=v, kl=lengths), wanted, 1e-4)


@pytest.mark.usefixtures("_eleven")
def test_packed_sequences_need_lengths() -> None:
    net = Net()
    x = net.input("x", random(8, 2, 4))
    layer = net.network.add_attention(x, x, x, trt.AttentionNormalizationOp.SOFTMAX, False)
    layer.query_form = layer.key_value_form = trt.AttentionIOForm.PACKED_NHD
    net.output(layer.get_output(0))
    assert "packed sequences need their lengths" in net.fails()


@pytest.mark.usefixtures("_eleven")
def test_packed_updates_of_a_cache() -> None:
    net = Net()
    cache, new = random(3, 2, 9, 4), random(8, 2, 4, seed=1)
    first, places = np.array([0, 5, 2], np.int32), bounds(LENGTHS)
    layer = net.network.add_kv_cache_update(
        net.input("cache", cache), net.input("new", new), net.input("first", first),
        trt.KVCacheMode.LINEAR,
    )  # fmt: skip
    layer.update_form = trt.AttentionIOForm.PACKED_NHD
    layer.update_lengths = net.input("lengths", places)
    net.output(layer.get_output(0))
    wanted = cache.copy()
    for b, start in enumerate(first):
        rows = new[places[b] : places[b + 1]].transpose(1, 0, 2)
        wanted[b, :, start : start + LENGTHS[b]] = rows
    got = net.run(cache=cache, new=new, first=first, lengths=places)
    np.testing.assert_array_equal(got, wanted)
