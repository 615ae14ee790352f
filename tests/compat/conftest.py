"""The optional distribution, installed into a folder of its own, and programs that use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

Program = Callable[..., str]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install ``compat/tensorrt`` as users do; building leaves the repository as it is."""
    source, target = tmp_path_factory.mktemp("source") / "tensorrt", tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "compat" / "tensorrt", source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", target, source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def program(installed: Path, tmp_path: Path) -> Program:
    """Run a program with the distribution on its path and return what it prints."""

    def run(text: str, **environment: str) -> str:
        file = tmp_path / "program.py"
        file.write_text(textwrap.dedent(text))
        path = os.pathsep.join([str(installed), str(ROOT)])
        done = subprocess.run(
            [sys.executable, str(file)],
            env={**os.environ, "PYTHONPATH": path, "LAMINA_TENSORRT_DEVICE": "cpu", **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    return run
