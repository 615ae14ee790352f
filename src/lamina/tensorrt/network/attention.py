"""Attention, rotary embeddings and caches of keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamina import ops
from lamina.errors import GraphError, Unsupported
from lamina.ir.dims import Dim
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import (
    AttentionIOForm,
    AttentionNormalizationOp,
    CausalMaskKind,
    DataType,
    KVCacheMode,
)
from lamina.tensorrt.foundation.dtype import to_ir
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network import ragged
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.setting import OptionalSetting, Setting, set_quietly
from lamina.tensorrt.network.tensor import ITensor

_MASK, _SCALE = 3, 4
_QUERY_LENGTHS, _KEY_LENGTHS = 5, 6


class IAttentionBoundaryLayer(ILayer):
    """A layer on the boundary of an attention."""

    _attention: IAttention

    @property
    def attention(self) -> IAttention:
        """The attention."""
        return self._attention


class IAttentionInputLayer(IAttentionBoundaryLayer):
    """An operand of an attention."""

    _kind = "ATTENTION_INPUT"


class IAttentionOutputLayer(IAttentionBoundaryLayer):
    """``softmax(q @ k^T + mask) @ v``; operands are query, key, value, mask, scale, lengths."""

    _kind = "ATTENTION_OUTPUT"
    norm_op = Setting(AttentionNormalizationOp, "SOFTMAX", "Normalization of the scores.")
    causal_kind = Setting(CausalMaskKind, "NONE", "Which corner the causal mask is aligned to.")
    quantize_to = OptionalSetting(DataType, None, "Type to which normalized scores are rounded.")
    query_form = Setting(AttentionIOForm, "PADDED_BHND", "Layout of the query.")
    key_value_form = Setting(AttentionIOForm, "PADDED_BHND", "Layout of key and value.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        q, k, v, mask, scale, *lengths = (*inputs, *[None] * 7)[:7]
        assert q is not None and k is not None and v is not None
        if self._is_packed or any(n is not None for n in lengths):
            return (self._ragged(e, (q, k, v), mask, scale, lengths),)
        offset = self._offset(q, k)
        return (self._joined(e, (q, k, v), mask, scale, offset),)

    @property
    def _is_packed(self) -> bool:
        return "PACKED_NHD" in (self.query_form.name, self.key_value_form.name)

    def _ragged(
        self,
        e: LayerEmitter,
        qkv: tuple[Value, Value, Value],
        mask: Value | None,
        scale: Value | None,
        lengths: Sequence[Value | None],
    ) -> Value:
        """Join sequences of different lengths: all of them at once, behind a mask."""
        if mask is not None:
            raise Unsupported(
                "a mask over sequences with lengths", hint="leave either the mask or lengths out"
            )
        q, k, v = qkv
        of_queries, of_keys = lengths
        if not self._is_packed and of_queries is None and of_keys is not None:
            seen = ragged.visible_padded(e, q, k, of_keys, self.causal_kind.name)
            return self._joined(e, qkv, seen, scale, None)
        query_form, key_form = (
            ragged.packed if form.name == "PACKED_NHD" else ragged.padded
            for form in (self.query_form, self.key_value_form)
        )
        queries, keys = query_form(e, q, of_queries), key_form(e, k, of_keys)
        values = key_form(e, v, of_keys)
        seen = ragged.visible(e, queries, keys, self.causal_kind.name)
        y = self._joined(e, (queries.tensor, keys.tensor, values.tensor), seen, scale, None)
        return ragged.unpadded(e, y, q)

    def _joined(
        self,
        e: LayerEmitter,
        qkv: tuple[Value, Value, Value],
        mask: Value | None,
        scale: Value | None,
        offset: Dim | None,
    ) -> Value:
        q, k, v = qkv
        if self.norm_op.name == "SOFTMAX" and scale is None:
            op = ops.Attention(scale=1.0, causal=offset is not None, causal_offset=offset or 0)
            return e.emit(op, q, k, v, *([] if mask is None else [mask]))
        return self._decomposed(e, (q, k, v), mask, scale, offset)

    def _offset(self, q: Value, k: Value) -> Dim | None:
        if self.causal_kind.name == "NONE":
            return None
        if self.causal_kind.name == "UPPER_LEFT":
            return 0
        return k.tensor.shape[2] - q.tensor.shape[2]

    def _decomposed(
        self,
        e: LayerEmitter,
        qkv: tuple[Value, Value, Value],
        mask: Value | None,
        scale: Value | None,
        offset: Dim | None,
    ) -> Value:
        q, k, v = qkv
        k, v = (_repeated(e, x, q.tensor.shape[1]) for x in (k, v))
        scores = e.emit(ops.Matmul(transpose_b=True), q, k)
        softmax = self.norm_op.name == "SOFTMAX"
        outside = e.like(-6.0e4 if softmax else 0.0, scores)
        for seen in (mask, None if offset is None else _causal(e, scores, offset)):
            if seen is not None and seen.tensor.dtype is DType.BOOL:
                scores = e.emit(ops.Select(), seen, scores, outside)
            elif seen is not None:
                scores = e.binary(BinaryKind.ADD, scores, seen)
        if softmax:
            scores = e.emit(ops.Softmax(axis=3), scores)
        if scale is not None:
            scores = _rounded(e, scores, scale, to_ir(self.quantize_to or DataType.named("FP8")))
        return e.emit(ops.Matmul(), scores, v)


def _rounded(e: LayerEmitter, x: Value, scale: Value, dtype: DType) -> Value:
    factor = e.reshape(scale, ())
    q = e.emit(ops.Quantize(dtype=dtype), x, factor)
    return e.emit(ops.Dequantize(dtype=x.tensor.dtype), q, factor)


def _causal(e: LayerEmitter, scores: Value, offset: Dim) -> Value:
    """Return a bool mask [queries, keys]: query i sees keys up to ``i + offset``."""
    rows, columns = scores.tensor.shape[2:]
    ones = e.fill(True, DType.BOOL, (rows, columns))
    return e.cast(e.emit(ops.Trilu(upper=False, k=offset), e.cast(ones, DType.I32)), DType.BOOL)


def _repeated(e: LayerEmitter, x: Value, heads: Dim) -> Value:
    """Repeat each head of keys or values for the query heads that share it."""
    batch, own, length, size = x.tensor.shape
    if own == heads:
        return x
    if not isinstance(own, int) or not isinstance(heads, int) or heads % own:
        raise GraphError(f"{heads} query heads cannot share {own} heads")
    each = heads // own
    wide = e.expand(e.unsqueeze(x, (2,)), (batch, own, each, length, size))
    return e.reshape(wide, (batch, heads, length, size))


class _OfLayer:
    """A property or method of the layer behind an attention."""

    def __init__(self, name: str, doc: str) -> None:
        self._name = name
        self.__doc__ = doc

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else getattr(instance._layer, self._name)

    def __set__(self, instance: Any, value: Any) -> None:
        setattr(instance._layer, self._name, value)


class IAttention:
    """Query, key and value joined; made by INetworkDefinition.add_attention."""

    def __init__(self, layer: IAttentionOutputLayer) -> None:
        self._layer = layer
        layer._attention = self

    def _operand(self, index: int) -> ITensor | None:
        inputs = self._layer._inputs
        return inputs[index] if index < len(inputs) else None

    @property
    def mask(self) -> ITensor | None:
        """Bool (False hides) or float (added) mask that broadcasts to the scores."""
        return self._operand(_MASK)

    @mask.setter
    @checked
    def mask(self, value: ITensor) -> None:
        self._layer.set_input(_MASK, value)

    @property
    def norm_op(self) -> AttentionNormalizationOp:
        """Normalization of the scores."""
        return self._layer.norm_op

    @norm_op.setter
    def norm_op(self, value: AttentionNormalizationOp) -> None:
        self._layer.norm_op = value

    @property
    def causal(self) -> bool:
        """Whether a query sees only keys that are not after it."""
        return self._layer.causal_kind.name != "NONE"

    @causal.setter
    @checked
    def causal(self, value: bool) -> None:
        self._layer.causal_kind = CausalMaskKind.named("UPPER_LEFT" if value else "NONE")

    @property
    def causal_kind(self) -> CausalMaskKind:
        """Which corner of the scores the causal mask is aligned to."""
        return self._layer.causal_kind

    @causal_kind.setter
    def causal_kind(self, value: CausalMaskKind) -> None:
        self._layer.causal_kind = value

    decomposable = True
    """Whether it may run as several kernels; it always may."""

    @property
    def normalization_quantize_scale(self) -> ITensor | None:
        """Scale by which normalized scores are quantized."""
        return self._operand(_SCALE)

    @normalization_quantize_scale.setter
    @checked
    def normalization_quantize_scale(self, value: ITensor) -> None:
        self._layer.set_input(_SCALE, value)

    @property
    def normalization_quantize_to_type(self) -> DataType:
        """Type to which normalized scores are quantized."""
        return self._layer.quantize_to or DataType.named("FLOAT")

    @normalization_quantize_to_type.setter
    def normalization_quantize_to_type(self, value: DataType) -> None:
        self._layer.quantize_to = value

    @property
    def query_form(self) -> AttentionIOForm:
        """Layout of the query."""
        return self._layer.query_form

    @query_form.setter
    def query_form(self, value: AttentionIOForm) -> None:
        self._layer.query_form = value

    @property
    def key_value_form(self) -> AttentionIOForm:
        """Layout of key and value."""
        return self._layer.key_value_form

    @key_value_form.setter
    def key_value_form(self, value: AttentionIOForm) -> None:
        self._layer.key_value_form = value

    @property
    def query_lengths(self) -> ITensor | None:
        """Lengths of packed queries."""
        return self._operand(_QUERY_LENGTHS)

    @query_lengths.setter
    @checked
    def query_lengths(self, value: ITensor) -> None:
        self._layer.set_input(_QUERY_LENGTHS, value)

    @property
    def key_value_lengths(self) -> ITensor | None:
        """Lengths of packed keys and values."""
        return self._operand(_KEY_LENGTHS)

    @key_value_lengths.setter
    @checked
    def key_value_lengths(self, value: ITensor) -> None:
        self._layer.set_input(_KEY_LENGTHS, value)

    name = _OfLayer("name", "Name, for messages.")
    metadata = _OfLayer("metadata", "Text of the user's for the inspector.")
    num_ranks = _OfLayer("num_ranks", "Number of devices that run it together.")
    num_inputs = _OfLayer("num_inputs", "Number of operands.")
    num_outputs = _OfLayer("num_outputs", "Number of results.")
    get_input = _OfLayer("get_input", "Return an operand.")
    get_output = _OfLayer("get_output", "Return a result.")
    set_input = _OfLayer("set_input", "Replace or add an operand.")


class IRotaryEmbeddingLayer(ILayer):
    """Pairs of elements turned by angles that depend on the position.

    The operand is [B, heads, S, D]; the caches are [B, S, D/2], or [positions, D/2] with input 3,
    position numbers [B, S].  Su et al., "RoFormer" (2021).
    """

    _kind = "ROTARY_EMBEDDING"
    interleaved = Setting(bool, False, "Whether pairs are neighbours, or from the two halves.")
    rotary_embedding_dim = Setting(int, 0, "Elements that are turned, 0 for all.")

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, cos, sin, positions = (*inputs, None)[:4]
        assert x is not None and cos is not None and sin is not None
        size = x.tensor.shape[3]
        turned = self.rotary_embedding_dim or size
        if not isinstance(turned, int) or turned % 2:
            raise self._fail(f"{turned} elements cannot be turned in pairs")
        half = turned // 2
        factors = [
            e.unsqueeze(f if positions is None else e.gather(f, positions, 0), (1,))
            for f in (cos, sin)
        ]
        c, s = (e.slice(f, 3, 0, half) for f in factors)
        step = 2 if self.interleaved else 1
        a = e.slice(x, 3, 0, half, step)
        b = e.slice(x, 3, 1 if self.interleaved else half, half, step)
        left = e.binary(BinaryKind.SUB, e.multiply(a, c), e.multiply(b, s))
        right = e.binary(BinaryKind.ADD, e.multiply(a, s), e.multiply(b, c))
        y = self._joined(e, left, right, turned)
        if turned != size:
            y = e.emit(ops.Concat(axis=3), y, e.slice(x, 3, turned, size - turned))
        return (y,)

    def _joined(self, e: LayerEmitter, left: Value, right: Value, turned: int) -> Value:
        if not self.interleaved:
            return e.emit(ops.Concat(axis=3), left, right)
        pairs = [e.unsqueeze(v, (4,)) for v in (left, right)]
        both = e.emit(ops.Concat(axis=4), *pairs)
        return e.reshape(both, (*left.tensor.shape[:3], turned))


class IKVCacheUpdateLayer(ILayer):
    """A cache [B, heads, positions, D] with an update [B, heads, S, D] at ``write_indices`` [B]."""

    _kind = "KV_CACHE_UPDATE"
    cache_mode = Setting(KVCacheMode, "LINEAR", "How positions are counted.")
    update_form: Any = Setting(AttentionIOForm, "PADDED_BHND", "Layout of the update.")

    @property
    def update_lengths(self) -> ITensor | None:
        """Lengths of packed updates."""
        return self._inputs[3] if len(self._inputs) > 3 else None

    @update_lengths.setter
    @checked
    def update_lengths(self, value: ITensor) -> None:
        self.set_input(3, value)

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        cache, update, first, lengths = (*inputs, None)[:4]
        assert cache is not None and update is not None and first is not None
        form = self.__dict__.get("update_form")  # not all versions have it
        if form is not None and form.name == "PACKED_NHD":
            return (self._packed(e, cache, update, first, lengths),)
        if lengths is not None:
            raise Unsupported("lengths of padded updates", hint="use the form PACKED_NHD")
        batch, _, length, _ = update.tensor.shape
        zero, one = e.constant(0, DType.I64), e.constant(1, DType.I64)
        steps = e.reshape(e.emit(ops.Range(length=length), zero, one), (1, length))
        start = e.reshape(e.cast(first, DType.I64), (batch, 1))
        position = e.unsqueeze(e.binary(BinaryKind.ADD, start, steps), (2,))
        item = e.reshape(e.emit(ops.Range(length=batch), zero, one), (batch, 1, 1))
        places = e.emit(ops.Concat(axis=2), e.expand(item, (batch, length, 1)), position)
        order = (0, 2, 1, 3)
        rows, updates = e.transpose(cache, order), e.transpose(update, order)
        return (e.transpose(e.emit(ops.ScatterNd(), rows, places, updates), order),)

    def _packed(
        self, e: LayerEmitter, cache: Value, update: Value, first: Value, lengths: Value | None
    ) -> Value:
        """Write packed tokens [tokens, heads, size] behind the first place of their sequence."""
        if lengths is None:
            raise self._fail("packed updates need their lengths", "set update_lengths")
        tokens = update.tensor.shape[0]
        sequence, start, _ = ragged.token_places(e, tokens, lengths)
        token = e.emit(ops.Range(length=tokens), e.constant(0, DType.I64), e.constant(1, DType.I64))
        place = e.gather(e.cast(first, DType.I64), sequence, 0)
        place = e.binary(BinaryKind.ADD, place, e.binary(BinaryKind.SUB, token, start))
        columns = (e.unsqueeze(sequence, (1,)), e.unsqueeze(place, (1,)))
        places = e.emit(ops.Concat(axis=1), *columns)
        rows = e.transpose(cache, (0, 2, 1, 3))
        return e.transpose(e.emit(ops.ScatterNd(), rows, places, update), (0, 2, 1, 3))


class AttentionAdditions(Additions):
    """``add_*`` of the layers of this module."""

    @checked
    def add_attention(
        self,
        query: ITensor,
        key: ITensor,
        value: ITensor,
        norm_op: AttentionNormalizationOp,
        causal: bool,
    ) -> IAttention:
        """Add an attention; scores are not scaled, so scale the query before."""
        layer = self._add(IAttentionOutputLayer(self._state, [query, key, value]))
        set_quietly(layer, norm_op=norm_op)
        attention = IAttention(layer)
        if causal:
            set_quietly(layer, causal_kind=CausalMaskKind.named("UPPER_LEFT"))
        return attention

    @checked
    def add_attention_v2(
        self,
        query: ITensor,
        key: ITensor,
        value: ITensor,
        norm_op: AttentionNormalizationOp,
        causal_kind: CausalMaskKind,
    ) -> IAttention:
        """Add an attention with a choice of the causal mask's corner."""
        layer = self._add(IAttentionOutputLayer(self._state, [query, key, value]))
        set_quietly(layer, norm_op=norm_op, causal_kind=causal_kind)
        return IAttention(layer)

    @checked
    def add_rotary_embedding(
        self,
        input: ITensor,
        cos_cache: ITensor,
        sin_cache: ITensor,
        interleaved: bool,
        rotary_embedding_dim: int,
    ) -> IRotaryEmbeddingLayer:
        """Add a rotary embedding."""
        layer = self._add(IRotaryEmbeddingLayer(self._state, [input, cos_cache, sin_cache]))
        set_quietly(layer, interleaved=interleaved, rotary_embedding_dim=rotary_embedding_dim)
        return layer

    @checked
    def add_kv_cache_update(
        self, cache: ITensor, update: ITensor, write_indices: ITensor, cache_mode: KVCacheMode
    ) -> IKVCacheUpdateLayer:
        """Add an update of a cache of keys or values."""
        layer = self._add(IKVCacheUpdateLayer(self._state, [cache, update, write_indices]))
        set_quietly(layer, cache_mode=cache_mode)
        return layer


__all__ = [
    "IAttention",
    "IAttentionBoundaryLayer",
    "IAttentionInputLayer",
    "IAttentionOutputLayer",
    "IKVCacheUpdateLayer",
    "IRotaryEmbeddingLayer",
]
