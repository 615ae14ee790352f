"""Calls to the evaluator of ONNX."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
import pytest
from tests.samples.host import host_call
from tests.samples.sample import normal

from lamina import ops
from lamina.errors import ExecutionError, TypeMismatch
from lamina.ir.graph import Graph, emit_node
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.text import parse_type

F32 = parse_type("f32[2,3]")


def test_sequences_are_lists():
    a, b = normal(2, 3), normal(2, 3, seed=1)
    sequence = parse_type("seq<f32[2,3]>")
    (made,) = host_call("SequenceConstruct", ("a", "b"), sequence).reference(a, b)
    assert isinstance(made, list)
    (second,) = host_call("SequenceAt", ("s", "i"), F32).reference(made, np.int64(1))
    np.testing.assert_array_equal(second, b)
    (count,) = host_call("SequenceLength", ("s",), parse_type("i64[]")).reference(made)
    assert count.shape == () and count == 2


def test_optionals_are_none_or_the_value():
    optional = parse_type("optional<f32[2,3]>")
    has = host_call("OptionalHasElement", ("x",), parse_type("bool[]"))
    x = normal(2, 3)
    (wrapped,) = host_call("Optional", ("x",), optional).reference(x)
    np.testing.assert_array_equal(wrapped, x)
    assert has.reference(wrapped)[0] and not has.reference(None)[0]
    kind = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, (2, 3))
    (empty,) = host_call("Optional", (), optional, type=kind).reference()
    assert empty is None
    (listed,) = host_call("Optional", ("x",), parse_type("optional<seq<f32[2,3]>>")).reference([x])
    assert isinstance(listed, list) and listed[0] is x


def test_strings_are_object_arrays():
    text = np.array(["a", "b"], object)
    (y,) = host_call("StringConcat", ("a", "b"), parse_type("str[2]")).reference(text, text)
    assert y.dtype == object and y.tolist() == ["aa", "bb"]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(ml_dtypes.bfloat16, "bf16"), (ml_dtypes.float8_e4m3fn, "f8e4m3"), (ml_dtypes.int4, "i4")],
)
def test_small_types_pass_through(dtype, name):
    x = np.arange(-4, 4).astype(dtype)
    reshaped = host_call("Reshape", ("x", "s"), parse_type(f"{name}[2,4]"))
    (y,) = reshaped.reference(x, np.array([2, 4]))
    assert y.dtype == dtype and y.tolist() == x.reshape(2, 4).tolist()


def test_results_take_their_declared_element_type():
    (y,) = host_call("Identity", ("x",), parse_type("f16[2,3]")).reference(normal(2, 3))
    assert y.dtype == np.float16


def test_unknown_sizes_are_symbols():
    op = host_call("Unique", ("x",), parse_type("f32[u]"))
    graph = Graph()
    node = emit_node(op, [graph.input("x", parse_type("f32[n]"))], loc=Loc("test"))
    graph.output(node.output)
    graph.definers["u"] = node.output
    (y,) = interpret(graph, [np.float32([3, 1, 3])])
    assert y.tolist() == [1, 3]


def test_failures_name_the_operator_and_the_cause():
    with pytest.raises(ExecutionError, match=r"ONNX Det failed on the host: LinAlgError") as e:
        host_call("Det", ("x",), parse_type("f32[]")).reference(normal(2, 3))
    assert e.value.__cause__ is not None
    with pytest.raises(ExecutionError, match="ONNX NoSuchOperator cannot run on the host"):
        host_call("NoSuchOperator", ("x",), F32).reference(normal(2, 3))
    with pytest.raises(ExecutionError, match="takes 1 operands, got 2"):
        host_call("Neg", ("x",), F32).reference(normal(2, 3), normal(2, 3))
    with pytest.raises(ExecutionError, match="for ONNX cannot be read"):
        ops.HostCall(model=b"\xff\xff", output_types=(F32,)).reference(normal(2, 3))
    with pytest.raises(TypeMismatch, match="at least one result type"):
        ops.HostCall(model=b"", output_types=()).infer()


def test_random_models_are_not_pure():
    op = host_call("Bernoulli", ("x",), F32)
    assert op.pure
    assert not ops.HostCall(model=op.model, output_types=(F32,), deterministic=False).pure


def test_operators_do_not_import_onnx():
    code = "import sys, lamina.ops; print('onnx' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
