"""IDX reader and Fashion-MNIST loader on small synthetic files."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.workloads.datasets import FASHION_MNIST_FOLDER, load_fashion_mnist, read_idx
from nestling.workloads.errors import InputError


def idx_bytes(array: np.ndarray, *, code: int = 8) -> bytes:
    """IDX content written from the format's description, independently of the reader."""
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_split(folder: Path, prefix: str, images: np.ndarray, labels: np.ndarray, *, packed: bool = True) -> None:
    for name, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
        content = idx_bytes(array)
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def sample(count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    images = (np.arange(count * 28 * 28) % 251).astype(np.uint8).reshape(count, 28, 28)
    return images, (np.arange(count) % 10).astype(np.uint8)


@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_read_idx_returns_what_was_written(tmp_path_factory: pytest.TempPathFactory, shape, seed):
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path_factory.mktemp("idx") / "array"
    path.write_bytes(idx_bytes(array))
    found = read_idx(path)
    assert found.dtype == np.uint8
    assert found.shape == array.shape
    assert (found == array).all()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_load_reads_packed_and_plain_files(tmp_path, split, prefix, packed):
    images, labels = sample()
    write_split(tmp_path, prefix, images, labels, packed=packed)
    found_images, found_labels = load_fashion_mnist(tmp_path, split)
    assert np.array_equal(found_images, images)
    assert np.array_equal(found_labels, labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file; it starts with nothing"),
        (b"\x01\x00\x08\x01" + bytes(5), "starts with 01 00 08 01, expected 00 00"),
        (b"\0\0\x0d\x01" + struct.pack(">I", 0), "IDX type code 0x0d"),
        (b"\0\0\x08\x00", "truncated IDX header: 4 bytes for 0 dimensions"),
        (b"\0\0\x08\x03" + bytes(8), "truncated IDX header: 12 bytes for 3 dimensions"),
        (b"\0\0\x08\x01" + struct.pack(">I", 4) + b"abc", r"truncated: the header promises 4 bytes .* found 3"),
        (b"\0\0\x08\x01" + struct.pack(">I", 2) + b"abc", r"too long: the header promises 2 bytes .* found 3"),
        # 2**32 - 1 in every dimension must be refused by comparison, not allocated.
        (b"\0\0\x08\x04" + b"\xff" * 16, "truncated: the header promises"),
    ],
)
def test_read_idx_names_the_problem(tmp_path, content, message):
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_damaged_gzip_files_are_input_errors(tmp_path):
    images, _ = sample()
    whole = gzip.compress(idx_bytes(images))
    for name, content, message in (
        ("cut.gz", whole[: len(whole) // 2], "truncated or damaged gzip"),
        ("plain.gz", idx_bytes(images), "not a gzip file"),
        ("flipped.gz", whole[:-8] + bytes(4) + whole[-4:], "not a gzip file|damaged"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_idx(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_idx(tmp_path / "absent.gz")


def test_missing_data_says_how_to_get_it(tmp_path):
    for folder, reason in ((tmp_path / "absent", "it is not a folder"), (tmp_path, "there is no t10k-images-idx3")):
        with pytest.raises(InputError, match=reason) as caught:
            load_fashion_mnist(folder, "test")
        assert "apt-get install dataset-fashion-mnist" in str(caught.value)
        assert "--data DIR" in str(caught.value)


def test_unknown_split_is_refused_with_the_allowed_ones(tmp_path):
    with pytest.raises(InputError, match=r"unknown split 'tests'; did you mean 'test'\? Allowed: test, train"):
        load_fashion_mnist(tmp_path, "tests")


def test_every_mismatch_is_listed(tmp_path):
    write_split(tmp_path, "t10k", np.zeros((2, 28, 27), np.uint8), np.zeros(3, np.uint8))
    with pytest.raises(InputError) as caught:
        load_fashion_mnist(tmp_path, "test")
    assert len(caught.value.problems) == 2
    assert "expected (N, 28, 28)" in caught.value.problems[0]
    assert "2 test images, but 3 labels" in caught.value.problems[1]
    write_split(tmp_path, "t10k", sample(1)[0], np.array([10], np.uint8))
    with pytest.raises(InputError, match="labels reach 10; Fashion-MNIST has classes 0 to 9"):
        load_fashion_mnist(tmp_path, "test")
    write_split(tmp_path, "t10k", sample(1)[0], np.zeros((1, 1), np.uint8))
    with pytest.raises(InputError, match="labels have shape"):
        load_fashion_mnist(tmp_path, "test")


def test_the_default_folder_is_the_debian_package_s():
    assert FASHION_MNIST_FOLDER.parts[-2:] == ("datasets", "fashion-mnist")


def test_importing_the_reader_does_not_load_torch():
    program = "import sys, nestling.workloads.datasets, nestling.workloads.training; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
