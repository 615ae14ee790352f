from __future__ import annotations

import os
import subprocess
import sys

from tests.cli.conftest import Lamina
from tests.cli.test_main import RUN


def test_this_machine_is_described_and_checked(lamina: Lamina) -> None:
    done = lamina("doctor", "--json")
    assert done.code == 0, done.out
    found = {f["subject"]: f for f in done.json}
    assert found["self-check"]["good"] is True
    assert "a tiny network was built and run" in found["self-check"]["fact"]
    assert "avx2" in found["instructions"]["fact"]
    assert {"oneDNN", "llvmlite", "numpy", "onnx", "threads", "cache"} <= found.keys()


def test_people_get_lines(lamina: Lamina) -> None:
    lines = lamina("doctor").out.splitlines()
    assert any(line.startswith("ok") and "self-check" in line for line in lines)


def test_a_missing_library_is_named_with_the_fix_and_kernels_of_our_own_run() -> None:
    environment = {**os.environ, "LAMINA_ONEDNN_LIBRARY": "/nowhere/libdnnl.so.3"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, "doctor"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "missing oneDNN" in done.stdout
    assert "fix: " in done.stdout
    assert "/nowhere/libdnnl.so.3" in done.stdout
    (check,) = [line for line in done.stdout.splitlines() if "self-check" in line]
    assert check.startswith("ok"), check
