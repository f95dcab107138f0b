"""NumPy's array files: what NumPy writes is read back, anything else is refused in one message of our own words."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from nestling.analysis.cli import main
from nestling.analysis.suites.smartdeal import stored_arrays
from nestling.workloads.array_files import MAX_BYTES, read_npy, read_npz
from nestling.workloads.errors import InputError

from .fuzzing import mutations

TYPES = st.one_of(
    arrays.floating_dtypes(), arrays.integer_dtypes(), arrays.boolean_dtypes(), arrays.complex_number_dtypes()
)
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=arrays.arrays(TYPES, SHAPES), fortran=st.booleans(), write=st.sampled_from([np.savez, np.savez_compressed])
)
def test_what_numpy_writes_is_read_back(tmp_path: Path, array: np.ndarray, fortran: bool, write: object) -> None:
    stored = np.asfortranarray(array) if fortran else array
    np.save(tmp_path / "a.npy", stored)
    write(tmp_path / "a.npz", first=stored, second=array)  # type: ignore[operator]
    found = read_npz(tmp_path / "a.npz")
    assert list(found) == ["first", "second"]
    for one in (read_npy(tmp_path / "a.npy"), *found.values()):
        assert one.dtype == array.dtype
        np.testing.assert_array_equal(one, array)
        assert one.flags.writeable


def test_memory_is_counted_over_all_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(100), b=np.zeros(100))
    assert len(read_npz(tmp_path / "a.npz", left_bytes=1600)) == 2
    with pytest.raises(InputError, match=rf"b.npy: shape \(100,\) of float64 needs 800 bytes; at most {MAX_BYTES:,}"):
        read_npz(tmp_path / "a.npz", left_bytes=1599)


@pytest.mark.parametrize(("content", "problem"), [
    (b"images, labels\n1, 2\n", "not an array in NumPy's .npy format"),
    (b"\x93NUMPY\x09\x00", "not an array in NumPy's .npy format"),
    (b"\x93NUMPY\x01\x00\x06\x00(((((\n", "not an array in NumPy's .npy format"),
    (pickle.dumps({"images": 1}), "not an array in NumPy's .npy format"),
    (npy_bytes(np.zeros(3))[:-1], "ends after 23 of 24 bytes"),
    (npy_bytes(np.zeros((0, 3))).replace(b"(0, 3)", b"(0, 9" + b"9" * 30 + b")"), "is no array's"),
    (npy_bytes(np.zeros(1)).replace(b"(1,), }   ", b"(True,), }"), "not an array in NumPy's .npy format"),
    (npy_bytes(np.array([None])), "holds pickled objects, which are never read"),
])  # fmt: skip
def test_what_is_no_array_is_refused_in_our_words(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=problem):
        read_npy(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", content)
    with pytest.raises(InputError, match=f"images.npy: .*{problem}"):
        read_npz(tmp_path / "a.npz")


def test_archives_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", npy_bytes(np.zeros(3)))
    plain = path.read_bytes()
    for at, value in ((6, 1), (8, 99)):  # flags: encrypted; method: none that is known
        central = plain.index(b"PK\x01\x02") + 2
        changed = bytearray(plain)
        changed[at] = changed[central + at] = value
        path.write_bytes(changed)
        with pytest.raises(InputError, match="an archive of a kind that is not read"):
            read_npz(path)
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("images.npy", npy_bytes(np.zeros(3)))
        with pytest.raises(InputError, match="an archive of a kind that is not read"):
            read_npz(path)
    with pytest.raises(InputError, match="no such file"):
        read_npz(tmp_path / "nowhere.npz")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        read_npz(tmp_path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_broken_copies_are_read_or_refused(suffix: str, tmp_path: Path) -> None:
    good, path = tmp_path / f"good{suffix}", tmp_path / f"broken{suffix}"
    if suffix == ".npz":
        np.savez_compressed(good, images=np.arange(64, dtype=np.float32), labels=np.arange(3))
    else:
        np.save(good, np.arange(64, dtype=np.float32))
    refused = []
    for content in mutations(good.read_bytes(), 300, seed=1):
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                read_npz(path) if suffix == ".npz" else read_npy(path)
            except InputError as error:
                refused.append(str(error))
    assert len(refused) > 50
    assert all(str(path) in text for text in refused)


@pytest.mark.parametrize("content", [b"image 1, label 2\n", pickle.dumps([1]), npy_bytes(np.zeros(3)), b""])
@pytest.mark.parametrize("arguments", [
    ("run", "--images", "FILE.txt"),
    ("run", "digits", "--images", "FILE.npz"),
    ("execute", "--images", "FILE.npy"),
    ("run", "--calibrate", "FILE.npz"),
    ("run", "--calibrate", "FILE.txt"),
])  # fmt: skip
def test_the_command_line_says_what_the_file_must_be(
    content: bytes,
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / arguments[-1]
    path.write_bytes(content)
    monkeypatch.setattr("sys.argv", ["nestling", *arguments[:-1], str(path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert str(path) in said
    assert ".npz" in said
    assert "pickle" not in said


def test_reference_arrays_of_text_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "decompose.npz", A_1=np.array(["1.0"]))
    with pytest.raises(InputError, match="A_1 is <U3; needed are real numbers"):
        stored_arrays(tmp_path / "decompose.npz")
    assert stored_arrays(tmp_path / "nowhere.npz") == {}
