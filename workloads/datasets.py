"""Image data sets in the IDX format of MNIST and Fashion-MNIST, read from disk. Nothing is downloaded."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, unknown_name

#: Where the Debian package ``dataset-fashion-mnist`` (MIT/Expat licence) installs its files.
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
#: Split name -> prefix of its two files (Xiao et al., arXiv 1708.07747) and number of images.
FASHION_MNIST_SPLITS = {"train": ("train", 60_000), "test": ("t10k", 10_000)}
#: IDX type code of unsigned bytes, the only one these data sets use (Y. LeCun, "The MNIST database", file formats).
_UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Array of an IDX file of unsigned bytes, plain or gzip-compressed (by the suffix ``.gz``).

    The header is two zero bytes, the type code, the number of dimensions, and one big-endian 32-bit size per dimension.

    Raises
    ------
    InputError
        if the file is missing, not a gzip file, not IDX of unsigned bytes, or its length is not what its header says.
    """
    content = _read_bytes(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise InputError(f"{path}: not an IDX file; it starts with {content[:4].hex(' ') or 'nothing'}, expected 00 00")
    if content[2] != _UNSIGNED_BYTE:
        raise InputError(f"{path}: IDX type code 0x{content[2]:02x}; only unsigned bytes (0x08) are read")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    if dimensions < 1 or len(content) < header:
        raise InputError(f"{path}: truncated IDX header: {len(content)} bytes for {dimensions} dimensions")
    shape = tuple(int(size) for size in np.frombuffer(content, dtype=">u4", count=dimensions, offset=4))
    expected = math.prod(shape)
    if len(content) - header != expected:
        kind = "truncated" if len(content) - header < expected else "too long"
        raise InputError(
            f"{path}: {kind}: the header promises {expected} bytes for shape {shape}, found {len(content) - header}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as stream:
                return stream.read()
        return path.read_bytes()
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: truncated or damaged gzip file ({error})") from error
    except gzip.BadGzipFile as error:
        raise InputError(f"{path}: not a gzip file ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def load_fashion_mnist(
    directory: Path | str = FASHION_MNIST_FOLDER, split: str = "test"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images uint8 (N, 28, 28), 0 = background, and labels uint8 (N,), 0..9, of one split in file order.

    Parameters
    ----------
    directory : folder with ``train-images-idx3-ubyte.gz`` and its three siblings (``.gz`` or unpacked).
    split : "train" (60,000 images) or "test" (10,000).

    Raises
    ------
    InputError
        if the folder or a file is missing (the message says how to get them), damaged, or images and labels disagree.
    """
    if split not in FASHION_MNIST_SPLITS:
        raise unknown_name("split", split, FASHION_MNIST_SPLITS)
    prefix = FASHION_MNIST_SPLITS[split][0]
    folder = Path(directory)
    images = read_idx(_locate(folder, f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_locate(folder, f"{prefix}-labels-idx1-ubyte"))
    problems = []
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        problems.append(f"{folder}: {split} images have shape {images.shape}, expected (N, 28, 28)")
    if labels.ndim != 1:
        problems.append(f"{folder}: {split} labels have shape {labels.shape}, expected (N,)")
    elif len(labels) != len(images):
        problems.append(f"{folder}: {len(images)} {split} images, but {len(labels)} labels")
    elif labels.size and labels.max() > 9:
        problems.append(f"{folder}: {split} labels reach {labels.max()}; Fashion-MNIST has classes 0 to 9")
    if problems:
        raise InputError(problems)
    return images, labels


def _locate(folder: Path, name: str) -> Path:
    """The file ``name`` or ``name.gz`` in ``folder``; the packed one first."""
    for candidate in (folder / f"{name}.gz", folder / name):
        if candidate.is_file():
            return candidate
    missing = f"there is no {name}.gz in it" if folder.is_dir() else "it is not a folder"
    raise InputError(
        f"Fashion-MNIST was not found in {folder}: {missing}. "
        "Install it with `apt-get install dataset-fashion-mnist`, or give its folder with `--data DIR`"
    )
