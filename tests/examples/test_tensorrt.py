"""The programs in examples/tensorrt run, each in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.architecture.source_files import ROOT

FOLDER = ROOT / "examples" / "tensorrt"
PROGRAMS = [f for f in sorted(FOLDER.glob("*.py")) if "__main__" in f.read_text()]
VERSION = re.compile(r"LAMINA_TENSORRT_VERSION=([\d.]+)")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.stem)
def test_the_program_runs(program: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "LAMINA_CACHE_DIR": str(tmp_path), "LAMINA_TENSORRT_DEVICE": "cpu"}
    if found := VERSION.search(program.read_text()):
        environment["LAMINA_TENSORRT_VERSION"] = found[1]
    stand_ins = ROOT / "compat" / "tensorrt" / "src"
    if stand_ins.exists():
        environment["PYTHONPATH"] = str(stand_ins)
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
