"""Stands in for nvidia-cudnn-frontend: the calls that Lamina makes, on host memory, in NumPy.

Three engines are proposed; engine n needs 512*n bytes of workspace, which it writes to.  Engine 1
is not deterministic.  The calls check their arguments as far as the package does.
"""

from __future__ import annotations

import ctypes
import json
import math
from enum import Enum

import ml_dtypes
import numpy as np

ENGINES = ("eng0", "eng1_k2=5", "eng2_k2=7")
Names = Enum("Names", "NOT_SET HALF BFLOAT16 FLOAT")
data_type = Names
numerical_note = Enum(
    "numerical_note",
    "NONDETERMINISTIC REDUCED_PRECISION_REDUCTION WINOGRAD_TILE_6x6 WINOGRAD_TILE_13x13 "
    "TENSOR_CORE DOWN_CONVERT_INPUTS",
)
heur_mode = Enum("heur_mode", "A B FALLBACK")
build_plan_policy = Enum("build_plan_policy", "HEURISTICS_CHOICE ALL")
diagonal_alignment = Enum("diagonal_alignment", "TOP_LEFT BOTTOM_RIGHT")
NUMPY = {Names.HALF: np.float16, Names.BFLOAT16: ml_dtypes.bfloat16, Names.FLOAT: np.float32}


class cudnnGraphNotSupportedError(Exception):
    pass


class Tensor:
    def __init__(self, compute=None, **fields):
        self.compute = compute
        self.fields = fields

    def __getattr__(self, name):
        def set_(value):
            self.fields[{"set_dim": "dim", "set_stride": "stride"}.get(name, name[4:])] = value
            return self

        if not name.startswith("set_"):
            raise AttributeError(name)
        return set_


def backend_version():
    return 91900


def create_handle():
    return 77


def set_stream(handle, stream):
    assert handle == 77 and isinstance(stream, int)


def view(field, pointer):
    """Return memory as an array with the tensor's shape and strides."""
    type_ = NUMPY[field["data_type"]]
    size = np.dtype(type_).itemsize
    reach = 1 + sum((d - 1) * s for d, s in zip(field["dim"], field["stride"], strict=True))
    assert all(s > 0 for s in field["stride"]) and pointer % 16 == 0
    raw = (ctypes.c_uint8 * (reach * size)).from_address(pointer)
    strides = [s * size for s in field["stride"]]
    return np.ndarray(tuple(field["dim"]), type_, raw, 0, tuple(strides))


class pygraph:
    made: dict = {}
    """Graphs by number: what a serialized plan refers to."""

    def __init__(self, io_data_type=None, handle=None, **wide):
        assert handle == 77
        self.inputs, self.result, self.plan = {}, None, None
        self.barred, self.limit = set(), 1 << 60

    def tensor(self, dim, stride, data_type, name, uid):
        assert len(dim) == len(stride)
        field = {"dim": dim, "stride": stride, "data_type": data_type, "uid": uid}
        self.inputs[uid] = field
        return Tensor(lambda at: view(field, at[uid]).astype(np.float32), **field)

    def _op(self, function, *operands):
        self.result = Tensor(lambda at: function(*(t.compute(at) for t in operands)))
        return self.result

    def add(self, a, b, name):
        return self._op(np.add, a, b)

    def bias(self, input, bias, name):
        return self._op(np.add, input, bias)

    def relu(self, input, negative_slope=0.0, lower_clip=0.0, upper_clip=np.inf):
        def run(x):
            low = np.where(x < lower_clip, lower_clip + negative_slope * (x - lower_clip), x)
            return np.minimum(low, upper_clip)

        return self._op(run, input)

    def tanh(self, input):
        return self._op(np.tanh, input)

    def swish(self, input, swish_beta):
        return self._op(lambda x: x / (1 + np.exp(-swish_beta * x)), input)

    def gelu(self, input):
        erf = np.vectorize(math.erf)
        return self._op(lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))), input)

    def conv_fprop(self, image, weight, pre_padding, post_padding, stride, dilation, name):
        def run(x, w):
            x = np.pad(x, [(0, 0), (0, 0), *zip(pre_padding, post_padding, strict=True)])
            taps = w.shape[2:]
            rank = len(taps)
            sizes = [
                (n - d * (t - 1) - 1) // s + 1
                for n, t, s, d in zip(x.shape[2:], taps, stride, dilation, strict=True)
            ]
            groups = x.shape[1] // w.shape[1]
            each = w.shape[0] // groups
            y = np.zeros((x.shape[0], w.shape[0], *sizes), np.float32)
            for tap in np.ndindex(*taps):
                at = tuple(
                    slice(t * d, t * d + (n - 1) * s + 1, s)
                    for t, d, n, s in zip(tap, dilation, sizes, stride, strict=True)
                )
                part = x[(slice(None), slice(None), *at)]
                for g in range(groups):
                    mine = part[:, g * w.shape[1] : (g + 1) * w.shape[1]]
                    f = w[(slice(g * each, (g + 1) * each), slice(None), *tap)]
                    y[:, g * each : (g + 1) * each] += np.einsum(
                        "nc...,kc->nk...", mine, f, optimize=True
                    )
            assert rank in (2, 3)
            return y

        return self._op(run, image, weight)

    def sdpa(self, q, k, v, generate_stats, attn_scale, name, **mask):
        def run(q, k, v):
            shared = q.shape[1] // k.shape[1]
            k, v = (np.repeat(a, shared, 1) for a in (k, v))
            scores = q @ k.swapaxes(2, 3) * attn_scale
            if mask:
                assert mask["diagonal_band_right_bound"] == 0
                rows, keys = scores.shape[2:]
                last = mask["diagonal_alignment"] is diagonal_alignment.BOTTOM_RIGHT
                seen = np.tri(rows, keys, keys - rows if last else 0, dtype=bool)
                scores = np.where(seen, scores, -np.inf)
            weights = np.exp(scores - scores.max(3, keepdims=True))
            return weights / weights.sum(3, keepdims=True) @ v

        return self._op(run, q, k, v), None

    def validate(self):
        assert {"output", "data_type", "uid", "dim", "stride"} <= set(self.result.fields)

    def build_operation_graph(self):
        pass

    def create_execution_plans(self, modes):
        if self.result.fields["dim"][1] == 13:
            raise cudnnGraphNotSupportedError("No valid engine configs for the graph\nmore")
        self.engines = [*ENGINES, ENGINES[0]]

    def deselect_numeric_notes(self, notes):
        if numerical_note.NONDETERMINISTIC in notes:
            self.barred.add(1)

    def deselect_workspace_greater_than(self, size):
        self.limit = size

    def check_support(self):
        if not self._allowed():
            raise cudnnGraphNotSupportedError("No execution plans support the graph.")

    def _allowed(self):
        return [i for i in range(3) if i not in self.barred and 512 * i <= self.limit]

    def build_plans(self, policy):
        self.plan = self._allowed()[0]

    def get_execution_plan_count(self):
        return len(self.engines)

    def get_plan_name_at_index(self, index):
        return self.engines[index]

    def build_plan_at_index(self, index):
        if index in self.barred:
            raise RuntimeError("Deselecting execution plan")
        self.plan = index

    def get_workspace_size(self):
        return 512 * self.plan

    def serialize(self):
        number = len(self.made)
        self.made[number] = self
        return list(json.dumps([number, self.plan]).encode())

    def deserialize(self, handle, data):
        assert handle == 77 and isinstance(data, list)  # the package takes no bytes
        number, plan = json.loads(bytes(data))
        self.inputs, self.result = self.made[number].inputs, self.made[number].result
        self.plan = plan

    def execute(self, pointers, workspace, handle):
        fields = self.result.fields
        if set(pointers) != {*self.inputs, fields["uid"]}:
            raise RuntimeError("Uid 99 does not exist in variant pack")
        ctypes.memset(workspace, 0xEE, self.get_workspace_size())
        result = self.result.compute(pointers)
        y = view(fields, pointers[fields["uid"]])
        y[...] = result.astype(y.dtype)
