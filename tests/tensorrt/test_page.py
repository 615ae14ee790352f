"""docs/tensorrt.md says what the code has."""

from __future__ import annotations

import importlib.util
from typing import Any

import lamina.tensorrt as trt
from lamina.tensorrt import table
from lamina.tensorrt.limits import LIMITS
from tests.architecture.source_files import ROOT


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("page", ROOT / "tools/tensorrt_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date() -> None:
    made = generator().page()
    wanted = (ROOT / "docs/tensorrt.md").read_text()
    assert made == wanted, "run: python tools/tensorrt_page.py"


def test_limits_name_what_exists() -> None:
    known = table.class_names() | table.enum_names()
    assert {name.split(".")[0] for name in LIMITS} <= known
    trt.use("10")
