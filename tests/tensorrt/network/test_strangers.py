"""Tensors of one network in another."""

from __future__ import annotations

import lamina.tensorrt as trt
from tests.tensorrt.running import Net


def test_tensors_of_another_network_are_refused() -> None:
    net, other = Net(), Net()
    x, stranger = (n.network.add_input("x", trt.float32, (-1, 3)) for n in (net, other))
    total = trt.ElementWiseOperation.SUM
    loop, conditional = net.network.add_loop(), net.network.add_if_conditional()
    layers = net.network.num_layers
    for add in (
        lambda: net.network.add_activation(stranger, trt.ActivationType.RELU),
        lambda: net.network.add_activation(input=stranger, type=trt.ActivationType.RELU),
        lambda: net.network.add_elementwise(x, stranger, total),
        lambda: net.network.add_concatenation([x, stranger]),
        lambda: loop.add_recurrence(stranger),
        lambda: conditional.set_condition(stranger),
    ):
        count = len(net.logger.errors)
        assert add() is None
        (message,) = net.logger.errors[count:]
        assert "tensor 'x' belongs to another network" in message
    assert net.network.num_layers == layers and not other.logger.errors
    assert net.network.add_concatenation([x, x]) is not None
