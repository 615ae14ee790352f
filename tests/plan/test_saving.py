"""Saving: whole or not at all, and the older file stays."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import lamina
from lamina.errors import PlanError
from tests.plan.plans import engine, plan_bytes


def test_a_saved_file_holds_the_serialized_bytes(tmp_path: Path) -> None:
    path = tmp_path / "net.plan"
    engine("convolution").save(path)
    assert path.read_bytes() == plan_bytes("convolution")
    assert os.listdir(tmp_path) == ["net.plan"]


def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    engine("convolution").save(tmp_path / "net.plan")
    assert (tmp_path / "net.plan").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_full_disk_keeps_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.plan"
    path.write_bytes(b"older")

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlanError, match="No space left on device") as error:
        engine("convolution").save(path)
    assert "free some space" in str(error.value)
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["net.plan"]


def test_a_write_that_stops_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow beyond 4 KiB."""
    source = tmp_path / "source.plan"
    source.write_bytes(plan_bytes("convolution"))
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "net.plan").write_bytes(b"older")
    code = (
        "import lamina, resource, signal\n"
        f"engine = lamina.load({str(source)!r})\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        f"    engine.save({str(folder / 'net.plan')!r})\n"
        "except lamina.PlanError as e:\n"
        "    print('refused:', e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.startswith("refused: cannot write"), done.stderr
    assert "File too large" in done.stdout
    assert (folder / "net.plan").read_bytes() == b"older"
    assert os.listdir(folder) == ["net.plan"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


def test_an_interrupt_while_saving_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine("convolution").save(tmp_path / "net.plan")
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"cannot write .*none.*No such file"):
        engine("convolution").save(tmp_path / "none" / "net.plan")
    (tmp_path / "folder.plan").mkdir()
    with pytest.raises(PlanError, match="cannot write"):
        engine("convolution").save(tmp_path / "folder.plan")
    assert os.listdir(tmp_path) == ["folder.plan"]


def test_a_loaded_plan_can_be_saved_over_itself(tmp_path: Path) -> None:
    path = tmp_path / "net.plan"
    engine("dynamic").save(path)
    loaded = lamina.load(path)
    loaded.save(path)
    assert path.read_bytes() == plan_bytes("dynamic")
