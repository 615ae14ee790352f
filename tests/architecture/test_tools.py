"""ruff, mypy and import-linter accept the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.architecture.source_files import ROOT

SCRIPTS = Path(sys.executable).parent
TOOLS = {
    "ruff check": ["ruff", "check", "--no-cache", "."],
    "ruff format": ["ruff", "format", "--no-cache", "--check", "."],
    "mypy": ["mypy"],
    "import-linter": ["lint-imports"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tool_accepts(tool: str) -> None:
    program, *arguments = TOOLS[tool]
    command = [str(SCRIPTS / program), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    shown = (done.stdout + done.stderr)[-6000:]
    assert done.returncode == 0, f"{' '.join(TOOLS[tool])} finds fault:\n{shown}"
