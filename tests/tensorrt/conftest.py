"""Where engines of these tests run: on the CPU, whatever the machine has.

``LAMINA_TENSORRT_DEVICE=cuda`` runs them on a GPU instead, which makes sense for the layers
(``tests/tensorrt/network``); tests marked ``gpu`` run there anyway.
"""

from __future__ import annotations

import os

import pytest

from lamina.tensorrt import platform


@pytest.fixture(autouse=True)
def engines_run_on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = request.node.get_closest_marker("gpu") is not None
    if not on_gpu and not os.environ.get("LAMINA_TENSORRT_DEVICE"):
        monkeypatch.setattr(platform, "device", lambda: "cpu")
