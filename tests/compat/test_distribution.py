"""The names of the optional distribution."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from lamina.tensorrt import persona
from tests.compat.conftest import ROOT, Program


def test_the_package_is_a_real_one(program: Program) -> None:
    found = program(
        """
        import importlib.metadata
        import tensorrt as trt
        import tensorrt.tensorrt as inner
        from tensorrt import ICudaEngine
        print(trt.__version__, importlib.metadata.version("tensorrt"), trt.__file__.split("/")[-2])
        print(trt.tensorrt is inner, inner.Builder is trt.Builder, "Runtime" in dir(trt))
        print(hasattr(ICudaEngine, "num_bindings"), hasattr(trt, "shutdown_everything"))
        """
    )
    version = persona.PERSONAS["10"].version
    assert found.splitlines() == [
        f"{version} {version} tensorrt",
        "True True True",
        "False False",
    ]


def test_the_version_is_that_of_the_default_persona() -> None:
    project = tomllib.loads((ROOT / "compat/tensorrt/pyproject.toml").read_text())["project"]
    assert project["version"] == persona.PERSONAS["10"].version


def test_names_follow_the_persona(program: Program) -> None:
    text = """
    import lamina.tensorrt
    import tensorrt as trt
    print(trt.__version__, hasattr(trt, "IStreamReader"), int(trt.BuilderFlag.REFIT))
    lamina.tensorrt.use("10")
    print(trt.__version__, hasattr(trt, "IStreamReader"), int(trt.BuilderFlag.REFIT))
    """
    assert program(text, LAMINA_TENSORRT_VERSION="8.6").splitlines() == [
        "8.6.1 False 5",
        f"{persona.PERSONAS['10'].version} True 4",
    ]


def test_trtexec_is_a_command(installed: Path) -> None:
    done = subprocess.run(
        [sys.executable, installed / "bin" / "trtexec", "--help"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0 and "--saveEngine" in done.stdout
