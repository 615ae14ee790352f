"""Where layers run: device types, the DLA that is not there, and the host."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from lamina.backends.cuda import bindings
from lamina.tensorrt import platform
from lamina.tensorrt.config_devices import hosted_nodes
from lamina.tensorrt.lower import lower
from tests.tensorrt.running import Net, close, random


def network() -> tuple[Net, Any]:
    net = Net()
    x = net.network.add_input("x", trt.float32, (2, 8))
    relu = net.network.add_activation(x, trt.ActivationType.RELU)
    relu.name = "relu"
    total = net.network.add_elementwise(relu.get_output(0), x, trt.ElementWiseOperation.SUM)
    net.output(total.get_output(0))
    return net, relu


def test_layers_for_a_dla_are_refused_or_fall_back() -> None:
    net, relu = network()
    net.config.set_device_type(relu, trt.DeviceType.DLA)
    assert not net.config.can_run_on_DLA(relu) and net.builder.num_DLA_cores == 0
    assert "layer 'relu' is meant for a DLA, and there is none" in net.fails()
    net.config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    x = random(2, 8)
    close(net.run(x=x), np.maximum(x, 0) + x)
    assert any("0 others run on the engine's device" in m for _, m in net.logger.lines)
    net.config.clear_flag(trt.BuilderFlag.GPU_FALLBACK)
    net.config.set_device_type(relu, trt.DeviceType.GPU)
    net.build()
    net.config.reset_device_type(relu)
    net.config.default_device_type = trt.DeviceType.DLA
    assert "is meant for a DLA" in net.fails()


def test_the_host_may_run_a_layer() -> None:
    net, relu = network()
    assert not net.config.is_layer_on_host(relu)
    net.config.set_layer_on_host(relu, True)
    assert net.config.is_layer_on_host(net.network.get_layer(0))
    assert hosted_nodes(net.config, lower(net.network._state).graph) == ("relu",)
    x = random(2, 8)
    close(net.run(x=x), np.maximum(x, 0) + x)
    net.config.set_layer_on_host(relu, False)
    assert hosted_nodes(net.config, lower(net.network._state).graph) == ()
    net.config.set_layer_on_host(relu, True)
    net.config.reset()
    assert not net.config.is_layer_on_host(relu)


def test_programs_learn_how_to_stay_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "device", lambda: "cuda")
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", SimpleNamespace(IS_STAND_IN=True))
    monkeypatch.setattr(bindings, "_devices", {})
    net, _ = network()
    message = net.fails()
    assert "there is no GPU" in message and "LAMINA_TENSORRT_DEVICE=cpu" in message
