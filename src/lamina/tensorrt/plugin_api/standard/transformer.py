"""Standard plugins of BERT and DeBERTa, on sequences [s, b, e, 1, 1]."""

from __future__ import annotations

import numpy as np

from lamina.errors import GraphError
from lamina.ir.types import DType
from lamina.tensorrt.plugin_api.standard.definition import (
    Attributes,
    Definition,
    composed,
    known,
)
from lamina.tensorrt.plugin_api.standard.suppression import positions
from lamina.tensorrt.plugin_api.standard.tensors import Tensor

_EPSILON = 1e-5
"""Added to the variance by layer normalizations."""


def _embedding(a: Attributes, tokens: Tensor, segments: Tensor, mask: Tensor) -> list[Tensor]:
    """Sum of three embeddings, normalized; and how many tokens of each item count."""
    words = _table(a, tokens, "bert_embeddings_word_embeddings")
    kinds = _table(a, tokens, "bert_embeddings_token_type_embeddings")
    places = _table(a, tokens, "bert_embeddings_position_embeddings")
    length, batch = tokens.shape
    width = words.shape[1]
    place = places.onnx("Gather", positions(tokens, length)).reshape(length, 1, width)
    sum = words.onnx("Gather", tokens) + kinds.onnx("Gather", segments) + place
    gamma, beta = (np.asarray(a[f"bert_embeddings_layernorm_{k}"]) for k in ("gamma", "beta"))
    found = _normalized(sum, gamma, beta).reshape(length, batch, width, 1, 1)
    valid = (mask > 0).cast(DType.I32)
    counts = valid.onnx("ReduceSum", np.array([0]), keepdims=0)
    return [found.cast(DType.F16 if a["output_fp16"] else DType.F32), counts]


def _table(a: Attributes, like: Tensor, name: str) -> Tensor:
    width = np.size(a["bert_embeddings_layernorm_gamma"])
    array = np.asarray(a[name], np.float32).reshape(-1, width)
    return Tensor(like.e, like.e.constant(array, name=name))


def _normalized(x: Tensor, gamma: np.ndarray, beta: np.ndarray) -> Tensor:
    """Normalize along the last axis."""
    scale, shift = (x.constant(v.reshape(-1)) for v in (gamma, beta))
    return x.onnx("LayerNormalization", scale, shift, axis=-1, epsilon=_EPSILON)


def _skip_layer_norm(a: Attributes, x: Tensor, skip: Tensor) -> Tensor:
    """Sum with the residual, and with a bias where there is one, normalized."""
    length, batch, width, *_ = x.shape
    sum = (x + skip).reshape(length, batch, width)
    if np.size(a["bias"]):
        sum = sum + sum.constant(np.asarray(a["bias"]).reshape(-1))
    found = _normalized(sum, np.asarray(a["gamma"]), np.asarray(a["beta"]))
    return found.reshape(*x.shape)


def _fully_connected(a: Attributes, x: Tensor) -> Tensor:
    length, batch = x.shape[:2]
    (width,) = known(x, 2)
    outputs = int(a["out_dims"])
    if np.size(a["W"]) != outputs * width:
        raise GraphError(
            f"W of CustomFCPluginDynamic has {np.size(a['W'])} elements, expected "
            f"{outputs} x {width}"
        )
    weight = np.asarray(a["W"]).reshape(outputs, width).T
    found = x.reshape(length, batch, width).onnx("MatMul", x.constant(weight))
    return found.reshape(length, batch, outputs, 1, 1)


def _attention(a: Attributes, x: Tensor, counts: Tensor | None = None) -> Tensor:
    """Attention of each head; queries, keys and values of a head lie next to each other."""
    length, batch = x.shape[:2]
    width, heads = int(a["hidden_size"]), int(a["num_heads"])
    if bool(a["has_mask"]) != (counts is not None) or a["var_seqlen"]:
        raise GraphError(
            "CustomQKVToContextPluginDynamic takes a mask exactly if has_mask is set, and no "
            "packed sequences"
        )
    size = width // heads
    split = x.reshape(length, batch, heads, 3, size).transpose(3, 1, 2, 0, 4)
    query, key, value = (t.reshape(batch, heads, length, size) for t in split.parts(0, 3))
    scores = query.onnx("MatMul", key.transpose(0, 1, 3, 2)) * float(1 / np.sqrt(size))
    if counts is not None:
        place = positions(x, length).reshape(1, 1, 1, length)
        limit = counts.cast(DType.I64).reshape(batch, 1, 1, 1)
        scores = (limit > place).where(scores, -1e4)
    context = scores.onnx("Softmax", axis=-1).onnx("MatMul", value)
    return context.transpose(2, 0, 1, 3).reshape(length, batch, width, 1, 1)


def _gelu(a: Attributes, x: Tensor, *rest: Tensor) -> Tensor:
    """Approximate GELU by tanh, after a bias where one is given."""
    if rest:
        x = x + rest[0]
    elif np.size(a["bias"]) and np.ndim(a["bias"]):
        x = x + x.constant(np.asarray(a["bias"]).reshape(-1, 1, 1))
    return x.onnx("Gelu", approximate="tanh")


def _disentangled(a: Attributes, content: Tensor, to_place: Tensor, from_place: Tensor) -> Tensor:
    """DeBERTa: scores by content, and by the distance from either side in logarithmic buckets."""
    items, (length,) = content.shape[0], known(content, 1)
    span, (distances,) = int(a["span"]), known(to_place, 2)
    table = _buckets(length, span, distances)
    by_query, by_key = (
        Tensor(content.e, content.e.constant(t[None])).expand(items, length, length)
        for t in (table, table.T)
    )
    left = to_place.onnx("GatherElements", by_query, axis=2)
    right = from_place.onnx("GatherElements", by_key, axis=2).transpose(0, 2, 1)
    return (content + left + right) * float(a["factor"])


def _buckets(length: int, span: int, distances: int) -> np.ndarray:
    """Return for each pair of places which relative distance they count as.

    Up to half of the span distances are kept as they are; beyond they are put into buckets by
    their logarithm (He et al., DeBERTa; log buckets since its second version).
    """
    difference = np.subtract.outer(np.arange(length), np.arange(length))
    middle = span // 2
    with np.errstate(all="ignore"):
        rate = (middle - 1) / (np.log(distances - 1) - np.log(middle)) * (1 - 1e-7)
        far = np.ceil(np.log(np.abs(difference) / middle) * rate) + middle
    near = np.abs(difference) <= middle
    bucket = np.where(near, difference, np.sign(difference) * np.where(near, 0, far))
    found: np.ndarray = np.clip(bucket.astype(np.int64) + span, 0, 2 * span - 1)
    return found


_EMBEDDING = dict.fromkeys(
    [
        "bert_embeddings_layernorm_beta",
        "bert_embeddings_layernorm_gamma",
        "bert_embeddings_word_embeddings",
        "bert_embeddings_token_type_embeddings",
        "bert_embeddings_position_embeddings",
    ],
    (),
)

DEFINITIONS = (
    Definition(
        "CustomEmbLayerNormPluginDynamic",
        {"output_fp16": 0, "full_mask": 0, "mha_type_id": 0, **_EMBEDDING},
        composed(_embedding),
        outputs=2,
        operands=(3,),
    ),
    Definition(
        "CustomSkipLayerNormPluginDynamic",
        {"type_id": 0, "ld": 0, "beta": (), "gamma": (), "bias": ()},
        composed(_skip_layer_norm),
        operands=(2,),
    ),
    Definition(
        "CustomFCPluginDynamic",
        {"out_dims": 0, "type_id": 0, "W": ()},
        composed(_fully_connected),
        operands=(1,),
    ),
    Definition(
        "CustomQKVToContextPluginDynamic",
        {
            "type_id": 0,
            "hidden_size": 0,
            "num_heads": 1,
            "has_mask": 0,
            "dq_probs": 1 / 127,
            "var_seqlen": 0,
            "use_int8_scale_max": 1,
        },
        composed(_attention),
        operands=(1, 2),
    ),
    Definition(
        "CustomGeluPluginDynamic", {"type_id": 0, "bias": ()}, composed(_gelu), operands=(1, 2)
    ),
    Definition(
        "DisentangledAttention_TRT",
        {"span": 0, "factor": 1.0},
        composed(_disentangled),
        operands=(3,),
    ),
)
