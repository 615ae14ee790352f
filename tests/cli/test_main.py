from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Lamina

from lamina import __version__
from lamina.cli import main
from lamina.errors import BuildInterrupted, ImportFailed

RUN = "from lamina.cli.main import main; main()"


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_version_as_a_process() -> None:
    done = process("--version")
    assert (done.returncode, done.stdout) == (0, f"lamina {__version__}\n")


def test_an_error_as_a_process_is_one_message_on_stderr() -> None:
    done = process("inspect", "/nowhere/net.onnx")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: cannot read '/nowhere/net.onnx'")
    assert "Traceback" not in done.stderr


def test_help_lists_every_command_and_loads_no_compiler(lamina: Lamina) -> None:
    shown = lamina("--help").out
    assert all(f" {name} " in shown for name in main.COMMANDS)
    code = (
        "import sys\nfrom lamina.cli.main import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'onnx', 'llvmlite', 'lamina.builder', 'lamina.runtime.engine'}\n"
        "sys.exit(f'loaded {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", main.COMMANDS)
def test_the_table_of_commands_agrees_with_their_docstrings(name: str, lamina: Lamina) -> None:
    module = main.importlib.import_module(f"lamina.cli.{name}")
    assert inspect.getdoc(module.command) == main.COMMANDS[name]
    done = lamina(name, "--help")
    assert done.code == 0
    assert main.COMMANDS[name].split()[0] in done.out


def test_unknown_command_is_wrong_use(lamina: Lamina) -> None:
    done = lamina("bulid")
    assert done.code == 2
    assert "bulid" in done.err


def test_missing_argument_shows_how_to_call(lamina: Lamina) -> None:
    done = lamina("build", "net.onnx")
    assert done.code == 2
    assert "--output" in done.err


def test_debug_shows_the_exception(lamina: Lamina) -> None:
    with pytest.raises(ImportFailed, match="cannot read"):
        lamina("inspect", "/nowhere/net.onnx", "--debug")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BuildInterrupted("nothing was written")])
def test_interrupt_exits_130_and_writes_nothing(
    error: BaseException,
    lamina: Lamina,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("lamina.build", interrupted)
    done = lamina("build", model, "-o", tmp_path / "out.plan")
    assert done.code == 130
    assert "nothing was written" in done.err
    assert list(tmp_path.iterdir()) == []
