from __future__ import annotations

import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from lamina.cli.arrays import read_inputs, write_outputs
from lamina.errors import InputError


def test_npy_npz_and_a_file_of_several(tmp_path: Path, x: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "one.npz", anything=x)
    np.savez(tmp_path / "all.npz", x=x, z=x[:1])
    for text in (f"x={tmp_path}/x.npy", f"x={tmp_path}/one.npz", f"x={tmp_path}/all.npz"):
        read = read_inputs([text])
        assert list(read) == ["x"]
        np.testing.assert_array_equal(read["x"], x)
    assert sorted(read_inputs([f"{tmp_path}/all.npz"])) == ["x", "z"]


def test_what_is_written_reads_back(tmp_path: Path, x: np.ndarray) -> None:
    outputs = {"file": x, "a/b": np.array(7), "text": np.array(["ä", "b"], object)}
    write_outputs(tmp_path / "y.npz", outputs)
    with np.load(tmp_path / "y.npz", allow_pickle=False) as read:
        np.testing.assert_array_equal(read["file"], x)
        assert read["a/b"] == 7
        assert read["text"].tolist() == ["ä", "b"]
    write_outputs(tmp_path / "y.npy", {"y": x})
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), x)


def test_types_that_files_lack_are_widened(tmp_path: Path) -> None:
    exact = np.array([-1.5, 0.25, 3.0], np.float32)
    write_outputs(tmp_path / "y.npz", {"y": exact.astype(ml_dtypes.bfloat16)})
    with np.load(tmp_path / "y.npz") as read:
        assert read["y"].dtype == np.float32
        np.testing.assert_array_equal(read["y"], exact)


def test_pickles_are_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    (tmp_path / "x.npy").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="not a NumPy file"):
        read_inputs([f"x={tmp_path}/x.npy"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "content", "fact"),
    [
        ("x=missing.npy", None, "No such file"),
        ("x=x.npy", b"hello", "not a NumPy file"),
        ("x=x.npy", b"", "not a NumPy file"),
        ("x=x.npz", b"PK\x03\x04 cut", "not a NumPy file"),
        ("x.npy", b"", "has no name"),
    ],
)
def test_unreadable_inputs(
    text: str,
    content: bytes | None,
    fact: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(text.rpartition("=")[2]).write_bytes(content)
    with pytest.raises(InputError, match=fact):
        read_inputs([text])


def test_a_wrong_name_among_several_is_listed(tmp_path: Path, x: np.ndarray) -> None:
    np.savez(tmp_path / "all.npz", a=x, b=x)
    with pytest.raises(InputError, match="holds 2 arrays, none is called 'x'"):
        read_inputs([f"x={tmp_path}/all.npz"])


def test_unwritable_outputs_leave_nothing(tmp_path: Path, x: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"must end in .npz or .npy"):
        write_outputs(tmp_path / "y.txt", {"y": x})
    with pytest.raises(InputError, match="holds 1 array, there are 2"):
        write_outputs(tmp_path / "y.npy", {"y": x, "z": x})
    with pytest.raises(InputError, match="cannot write"):
        write_outputs(tmp_path / "nowhere" / "y.npz", {"y": x})
    with pytest.raises(InputError, match="a list, which NumPy files cannot hold"):
        write_outputs(tmp_path / "y.npz", {"y": [x]})
    assert list(tmp_path.iterdir()) == []
