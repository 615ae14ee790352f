"""``trtexec --timeRefit``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.tensorrt.trtexec.test_trtexec import QUICK, call, file

__all__ = ["file"]


def test_a_refit_is_timed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: tuple[Any, ...] = (f"--onnx={file}", "--shapes='x:0':2x4", "--timeRefit", *QUICK)
    code, text = call(capsys, *options, "--refit")
    assert code == 0, text
    assert re.search(r"Refit of 1 weights \(\d+ bytes\), 10 times: median = [\d.]+ ms", text)
    code, text = call(capsys, *options)
    assert code == 1 and "the engine is not refittable" in text
