import numpy as np
import pytest

from lamina.errors import ImportFailed
from lamina.importers.onnx import load
from tests.importers.models import model, normal, run


def test_unsorted_nodes_are_sorted():
    proto = model("agraph (float[3] x) => (float[3] y) { h = Relu(x) y = Neg(h) }")
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(nodes))
    x = normal(3)
    np.testing.assert_array_equal(run(proto, x)[0], -np.maximum(x, 0))


def test_cycle_names_its_nodes():
    proto = model(
        "agraph (float[3] x) => (float[3] y) { [a] p = Add(x, q) [b] q = Relu(p) y = Neg(x) }"
    )
    with pytest.raises(ImportFailed, match=r"cycle through .*a \(Add\).*b \(Relu\)"):
        load(proto)


def test_undefined_value():
    proto = model("agraph (float[3] x) => (float[3] y) { [a] y = Add(x, ghost) }")
    with pytest.raises(ImportFailed, match=r"a \(Add\) reads 'ghost', which nothing defines"):
        load(proto)


def test_undefined_output():
    proto = model("agraph (float[3] x) => (float[3] y) { z = Relu(x) }")
    with pytest.raises(ImportFailed, match="graph output 'y' is defined by no node"):
        load(proto)


def test_value_defined_twice():
    proto = model("agraph (float[3] x) => (float[3] y) { [a] y = Relu(x) [b] y = Neg(x) }")
    with pytest.raises(ImportFailed, match=r"'y' is defined twice: by a \(Relu\) and by b \(Neg\)"):
        load(proto)


def test_input_defined_again():
    proto = model("agraph (float[3] x) => (float[3] x) { x = Relu(x) }")
    with pytest.raises(ImportFailed, match="'x' is defined twice: as input or initializer"):
        load(proto)


def test_undefined_value_in_a_subgraph_names_the_outer_node():
    proto = model(
        """agraph (bool c, float[3] x) => (float[3] y) {
          [choose] y = If(c) <
            then_branch = t () => (float[3] a) { a = Add(x, ghost) },
            else_branch = e () => (float[3] b) { b = Neg(x) }>
        }"""
    )
    with pytest.raises(ImportFailed, match=r"choose \(If\) reads 'ghost'"):
        load(proto)
