"""The programs in examples/tensorrt run, each in a process of its own: on the CPU and on a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.architecture.source_files import ROOT

from lamina.tensorrt import platform

FOLDER = ROOT / "examples" / "tensorrt"
PROGRAMS = [f for f in sorted(FOLDER.glob("*.py")) if "__main__" in f.read_text()]
VERSION = re.compile(r"LAMINA_TENSORRT_VERSION=([\d.]+)")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.stem)
def test_the_program_runs(program: Path, tmp_path: Path) -> None:
    run(program, tmp_path, LAMINA_TENSORRT_DEVICE="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(platform.device() != "cuda", reason="there is no GPU")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.stem)
def test_the_program_runs_on_a_gpu(program: Path, tmp_path: Path) -> None:
    run(program, tmp_path)


def run(program: Path, folder: Path, **settings: str) -> None:
    environment = {**os.environ, "LAMINA_CACHE_DIR": str(folder), **settings}
    if found := VERSION.search(program.read_text()):
        environment["LAMINA_TENSORRT_VERSION"] = found[1]
    paths = [str(ROOT / "compat" / "tensorrt" / "src"), *sys.path]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
