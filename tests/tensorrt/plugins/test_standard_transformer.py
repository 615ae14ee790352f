"""Standard plugins of BERT and DeBERTa mean what their NumPy forms say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tensorrt.plugins.applying import apply, net
from tests.tensorrt.running import close, random

LENGTH, BATCH, WIDTH = 5, 2, 12
RNG = np.random.default_rng(5)


def normalized(x: Any, gamma: Any, beta: Any) -> Any:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta


GAMMA, BETA = random(WIDTH, seed=1), random(WIDTH, seed=2)


@pytest.mark.parametrize("half", [0, 1])
def test_embeddings(half: int) -> None:
    words, kinds, places = random(30, WIDTH, seed=3), random(2, WIDTH, seed=4), random(9, WIDTH)
    tokens = RNG.integers(0, 30, (LENGTH, BATCH)).astype(np.int32)
    segments = RNG.integers(0, 2, (LENGTH, BATCH)).astype(np.int32)
    counts = np.array([3, 5])
    mask = (np.arange(LENGTH)[:, None] < counts).astype(np.int32)
    got, valid = apply(
        "CustomEmbLayerNormPluginDynamic",
        [tokens, segments, mask],
        output_fp16=half,
        bert_embeddings_layernorm_beta=BETA,
        bert_embeddings_layernorm_gamma=GAMMA,
        bert_embeddings_word_embeddings=words,
        bert_embeddings_token_type_embeddings=kinds,
        bert_embeddings_position_embeddings=places,
    )
    sum = words[tokens] + kinds[segments] + places[:LENGTH, None]
    assert got.dtype == (np.float16 if half else np.float32)
    wanted = normalized(sum, GAMMA, BETA)[..., None, None]
    close(got.astype(np.float32), wanted, 4e-3 if half else 1e-4)
    assert valid.dtype == np.int32 and valid.tolist() == counts.tolist()


@pytest.mark.parametrize("bias", [False, True])
def test_residual_and_normalization(bias: bool) -> None:
    x, skip = (random(LENGTH, BATCH, WIDTH, 1, 1, seed=s) for s in (1, 2))
    more = {"bias": random(WIDTH, seed=8)} if bias else {}
    (got,) = apply(
        "CustomSkipLayerNormPluginDynamic", [x, skip], ld=WIDTH, gamma=GAMMA, beta=BETA, **more
    )
    sum = (x + skip)[..., 0, 0] + (more["bias"] if bias else 0)
    close(got, normalized(sum, GAMMA, BETA)[..., None, None], 1e-4)


def test_fully_connected() -> None:
    x, weight = random(LENGTH, BATCH, WIDTH, 1, 1), random(7, WIDTH, seed=3)
    (got,) = apply("CustomFCPluginDynamic", [x], out_dims=7, type_id=0, W=weight)
    close(got[..., 0, 0], x[..., 0, 0] @ weight.T, 1e-5)
    made = net("CustomFCPluginDynamic", [x], out_dims=8, W=weight)
    assert "W of CustomFCPluginDynamic has 84 elements, expected 8 x 12" in made.fails()


def attention(x: Any, heads: int, counts: Any) -> Any:
    size = WIDTH // heads
    split = x[..., 0, 0].reshape(LENGTH, -1, heads, 3, size)
    found = np.zeros((LENGTH, x.shape[1], heads, size))
    for b, h in np.ndindex(x.shape[1], heads):
        query, key, value = (split[:, b, h, k] for k in range(3))
        scores = query @ key.T / np.sqrt(size)
        scores = scores[:, : counts[b]]
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        found[:, b, h] = weights @ value[: counts[b]]
    return found.reshape(LENGTH, -1, WIDTH, 1, 1)


@pytest.mark.parametrize("masked", [False, True])
def test_attention(masked: bool) -> None:
    x, counts = random(LENGTH, BATCH, 3 * WIDTH, 1, 1), np.int32([3, 5])
    settings = {"hidden_size": WIDTH, "num_heads": 3, "has_mask": int(masked)}
    inputs = [x, counts] if masked else [x]
    (got,) = apply("CustomQKVToContextPluginDynamic", inputs, **settings)
    close(got, attention(x, 3, counts if masked else [LENGTH] * BATCH), 1e-4)
    wrong = net("CustomQKVToContextPluginDynamic", [x], hidden_size=WIDTH, num_heads=3, has_mask=1)
    assert "takes a mask exactly if has_mask is set" in wrong.fails()


def test_attention_on_a_dynamic_batch_and_length() -> None:
    x = random(LENGTH, BATCH, 3 * WIDTH, 1, 1)
    made = net(
        "CustomQKVToContextPluginDynamic",
        [x, np.int32([3, 5])],
        shapes=[(-1, -1, 3 * WIDTH, 1, 1), (-1,)],
        hidden_size=WIDTH,
        num_heads=3,
        has_mask=1,
    )
    rest = (3 * WIDTH, 1, 1)
    made.profile(x0=((1, 1, *rest), (5, 2, *rest), (9, 4, *rest)), x1=((1,), (2,), (4,)))
    engine = made.build()
    for counts in (np.int32([3, 5]), np.int32([2])):
        got = engine.run({"x0": x[:, : len(counts)], "x1": counts})["y0"]
        close(got, attention(x[:, : len(counts)], 3, counts), 1e-4)


def test_gelu() -> None:
    x, bias = random(LENGTH, BATCH, WIDTH, 1, 1), random(WIDTH, seed=2)
    sum = x + bias[:, None, None]
    wanted = 0.5 * sum * (1 + np.tanh(np.sqrt(2 / np.pi) * (sum + 0.044715 * sum**3)))
    close(apply("CustomGeluPluginDynamic", [x], bias=bias)[0], wanted, 1e-5)
    operand = bias.reshape(1, 1, WIDTH, 1, 1)
    close(apply("CustomGeluPluginDynamic", [x, operand])[0], wanted, 1e-5)


@pytest.mark.parametrize(("length", "span"), [(7, 8), (24, 8)])
def test_disentangled_attention(length: int, span: int) -> None:
    content = random(3, length, length)
    to_place, from_place = (random(3, length, 2 * span, seed=s) for s in (1, 2))
    (got,) = apply(
        "DisentangledAttention_TRT", [content, to_place, from_place], span=span, factor=0.125
    )
    middle = span // 2
    wanted = np.zeros(content.shape)
    for i, j in np.ndindex(length, length):
        distance = i - j
        bucket = distance
        if abs(distance) > middle:
            rate = (middle - 1) / (np.log(2 * span - 1) - np.log(middle)) * (1 - 1e-7)
            bucket = int(np.ceil(np.log(abs(distance) / middle) * rate) + middle)
            bucket = bucket if distance > 0 else -bucket
        place = min(max(bucket + span, 0), 2 * span - 1)
        wanted[:, i, j] = content[:, i, j] + to_place[:, i, place] + from_place[:, j, place]
    close(got, wanted * 0.125, 1e-5)
