"""BERT-base-like and ViT-B/16-like networks, decomposed into the operators that exporters write.

LayerNorm, GELU and attention appear as ReduceMean/Sub/Pow/..., Div/Erf/Add/Mul/Mul and
MatMul/Div/Add/Softmax/MatMul, as PyTorch's exporter writes them at opset 17 and below for models
that do not use fused modules: recognizing them is part of what is measured. Weights are seeded;
projections have variance 1/fan-in, so every layer norm sees a healthy spread.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx

from benchmarks.network_writer import NetworkWriter


@dataclasses.dataclass(frozen=True)
class EncoderShape:
    """Sizes of a transformer encoder; the defaults are those of BERT-base and ViT-B."""

    layers: int = 12
    hidden: int = 768
    heads: int = 12
    feed_forward: int = 3072

    @property
    def head_size(self) -> int:
        """Columns of one attention head."""
        return self.hidden // self.heads


@dataclasses.dataclass(frozen=True)
class BertShape:
    """Sizes of a BERT-like network."""

    encoder: EncoderShape = EncoderShape()
    vocabulary: int = 30522
    sequence: int = 128


@dataclasses.dataclass(frozen=True)
class VitShape:
    """Sizes of a ViT-like network."""

    encoder: EncoderShape = EncoderShape()
    image: int = 224
    patch: int = 16
    classes: int = 1000

    @property
    def tokens(self) -> int:
        """Patches plus the class token."""
        return (self.image // self.patch) ** 2 + 1


BERT_BASE = BertShape()
VIT_B16 = VitShape()


def bert(batch: int = 1, shape: BertShape = BERT_BASE, seed: int = 0) -> onnx.ModelProto:
    """Return a post-norm encoder over tokens with an additive mask, and its pooled first token.

    Inputs: ``input_ids``, ``attention_mask`` and ``token_type_ids``, each ``i64[batch, sequence]``.
    Outputs: ``last_hidden_state f32[batch, sequence, hidden]``, ``pooled f32[batch, hidden]``.
    """
    w = NetworkWriter("bert", seed)
    encoder = shape.encoder
    ids, mask, types = (
        w.input(name, (batch, shape.sequence), onnx.TensorProto.INT64)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    bias = _mask_bias(w, mask)
    x = _embed(w, shape, ids, types)
    for _ in range(encoder.layers):
        attended = _split_attention(w, encoder, x, bias, shape.sequence)
        x = _layer_norm(w, encoder.hidden, w.emit("Add", attended, x), epsilon=1e-12)
        x = _layer_norm(w, encoder.hidden, w.emit("Add", _mlp(w, encoder, x), x), epsilon=1e-12)
    first = w.emit("Gather", x, w.const(np.array(0, np.int64)), axis=1)
    dense = w.emit(
        "Gemm",
        first,
        *_linear_weights(w, encoder.hidden, encoder.hidden, transposed=True),
        transB=1,
    )
    return w.finish({"last_hidden_state": x, "pooled": w.emit("Tanh", dense)})


def vit(batch: int = 1, shape: VitShape = VIT_B16, seed: int = 0) -> onnx.ModelProto:
    """Return a pre-norm encoder over image patches and a class token.

    Input ``image f32[batch, 3, image, image]``, output ``logits f32[batch, classes]``.
    """
    w = NetworkWriter("vit", seed)
    encoder, patch, hidden = shape.encoder, shape.patch, shape.encoder.hidden
    image = w.input("image", (batch, 3, shape.image, shape.image))
    filters = w.normal(hidden, 3, patch, patch, std=1 / math.sqrt(3 * patch * patch))
    x = w.emit("Conv", image, filters, w.normal(hidden, std=0.1), strides=[patch, patch])
    x = w.emit("Reshape", x, w.ints(0, hidden, -1))
    x = w.emit("Transpose", x, perm=[0, 2, 1])
    token = w.emit("Expand", w.normal(1, 1, hidden, std=1.0), w.ints(batch, 1, hidden))
    x = w.emit("Concat", token, x, axis=1)
    x = w.emit("Add", x, w.normal(1, shape.tokens, hidden, std=0.3))
    for _ in range(encoder.layers):
        normed = _layer_norm(w, hidden, x, epsilon=1e-6)
        x = w.emit("Add", x, _packed_attention(w, encoder, normed, shape.tokens))
        x = w.emit("Add", x, _mlp(w, encoder, _layer_norm(w, hidden, x, epsilon=1e-6)))
    x = _layer_norm(w, hidden, x, epsilon=1e-6)
    first = w.emit("Gather", x, w.const(np.array(0, np.int64)), axis=1)
    weights = _linear_weights(w, hidden, shape.classes, transposed=True)
    return w.finish({"logits": w.emit("Gemm", first, *weights, transB=1)})


def _mask_bias(w: NetworkWriter, mask: str) -> str:
    """``i64[batch, sequence]`` of ones and zeros -> ``f32[batch, 1, 1, sequence]`` of 0, -10000."""
    wide = w.emit("Unsqueeze", w.emit("Unsqueeze", mask, w.ints(1)), w.ints(2))
    kept = w.emit("Cast", wide, to=onnx.TensorProto.FLOAT)
    return w.emit("Mul", w.emit("Sub", w.scalar(1.0), kept), w.scalar(-10000.0))


def _embed(w: NetworkWriter, shape: BertShape, ids: str, types: str) -> str:
    hidden = shape.encoder.hidden
    words = w.emit("Gather", w.normal(shape.vocabulary, hidden, std=1.0), ids)
    kinds = w.emit("Gather", w.normal(2, hidden, std=0.3), types)
    positions = w.normal(1, shape.sequence, hidden, std=0.3)
    summed = w.emit("Add", w.emit("Add", words, kinds), positions)
    return _layer_norm(w, hidden, summed, epsilon=1e-12)


def _linear_weights(
    w: NetworkWriter, inputs: int, outputs: int, *, transposed: bool = False
) -> tuple[str, str]:
    sizes = (outputs, inputs) if transposed else (inputs, outputs)
    return w.normal(*sizes, std=1 / math.sqrt(inputs)), w.normal(outputs, std=0.1, role="bias")


def _linear(w: NetworkWriter, x: str, inputs: int, outputs: int) -> str:
    weight, bias = _linear_weights(w, inputs, outputs)
    return w.emit("Add", bias, w.emit("MatMul", x, weight))


def _layer_norm(w: NetworkWriter, hidden: int, x: str, *, epsilon: float) -> str:
    mean = w.emit("ReduceMean", x, axes=[-1])
    centred = w.emit("Sub", x, mean)
    square = w.emit("Pow", centred, w.scalar(2.0))
    variance = w.emit("ReduceMean", square, axes=[-1])
    deviation = w.emit("Sqrt", w.emit("Add", variance, w.scalar(epsilon)))
    normed = w.emit("Div", centred, deviation)
    scaled = w.emit("Mul", normed, w.normal(hidden, std=0.1, mean=1.0, role="scale"))
    return w.emit("Add", scaled, w.normal(hidden, std=0.1, role="bias"))


def _mlp(w: NetworkWriter, encoder: EncoderShape, x: str) -> str:
    wide = _linear(w, x, encoder.hidden, encoder.feed_forward)
    erf = w.emit("Erf", w.emit("Div", wide, w.scalar(math.sqrt(2.0))))
    gate = w.emit("Mul", wide, w.emit("Add", erf, w.scalar(1.0)))
    return _linear(w, w.emit("Mul", gate, w.scalar(0.5)), encoder.feed_forward, encoder.hidden)


def _heads(w: NetworkWriter, encoder: EncoderShape, x: str, perm: list[int], tokens: int) -> str:
    split = w.emit("Reshape", x, w.ints(0, tokens, encoder.heads, encoder.head_size))
    return w.emit("Transpose", split, perm=perm)


def _split_attention(
    w: NetworkWriter, encoder: EncoderShape, x: str, bias: str, tokens: int
) -> str:
    """Three projections, scores divided by the root of the head size, mask added."""
    q, k, v = (_linear(w, x, encoder.hidden, encoder.hidden) for _ in range(3))
    query = _heads(w, encoder, q, [0, 2, 1, 3], tokens)
    key = _heads(w, encoder, k, [0, 2, 3, 1], tokens)
    value = _heads(w, encoder, v, [0, 2, 1, 3], tokens)
    scores = w.emit("MatMul", query, key)
    scores = w.emit("Div", scores, w.scalar(math.sqrt(encoder.head_size)))
    weights = w.emit("Softmax", w.emit("Add", scores, bias), axis=-1)
    return _merge_heads(w, encoder, w.emit("MatMul", weights, value), tokens)


def _packed_attention(w: NetworkWriter, encoder: EncoderShape, x: str, tokens: int) -> str:
    """One projection for queries, keys and values, split afterwards; no mask."""
    packed = _linear(w, x, encoder.hidden, 3 * encoder.hidden)
    packed = w.emit("Reshape", packed, w.ints(0, tokens, 3, encoder.heads, encoder.head_size))
    packed = w.emit("Transpose", packed, perm=[2, 0, 3, 1, 4])
    query, key, value = (
        w.emit("Gather", packed, w.const(np.array(i, np.int64)), axis=0) for i in range(3)
    )
    query = w.emit("Mul", query, w.scalar(1 / math.sqrt(encoder.head_size)))
    scores = w.emit("MatMul", query, w.emit("Transpose", key, perm=[0, 1, 3, 2]))
    weights = w.emit("Softmax", scores, axis=-1)
    return _merge_heads(w, encoder, w.emit("MatMul", weights, value), tokens)


def _merge_heads(w: NetworkWriter, encoder: EncoderShape, x: str, tokens: int) -> str:
    merged = w.emit("Transpose", x, perm=[0, 2, 1, 3])
    merged = w.emit("Reshape", merged, w.ints(0, tokens, encoder.hidden))
    return _linear(w, merged, encoder.hidden, encoder.hidden)
