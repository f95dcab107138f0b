"""Arrays in NumPy's two file formats, ``.npy`` and ``.npz``, read without trust: nothing is unpickled, and a header is judged
before any memory is taken for what it promises.

The formats: an ``.npy`` file is a magic string, a header (type, order, shape) and the raw values; an ``.npz`` file is a zip
archive of these (NumPy Enhancement Proposal 1).
"""

from __future__ import annotations

import math
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from .errors import InputError

Array = NDArray[np.generic]
#: Bytes of all arrays of one reading, unless told otherwise: more than any data set here needs.
MAX_BYTES = 1 << 31
#: Versions of the ``.npy`` header.
_VERSIONS = ((1, 0), (2, 0), (3, 0))
#: How ``numpy.savez`` and ``numpy.savez_compressed`` pack.
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
#: Values are read in parts: a file that ends early has made us take no more memory than it fills.
_PART_BYTES = 1 << 24


def read_npz(path: Path, *, left_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """All arrays of an ``.npz`` file by name, plain or compressed; writable.

    Raises
    ------
    InputError
        if the file is missing, is no such archive or a damaged one, or an array is none, holds objects, or more than
        ``left_bytes`` (what files read before have left of ``MAX_BYTES``) would be taken.
    """
    found: dict[str, Array] = {}
    try:
        with _opened(path) as file, zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.compress_type not in _PACKED:
                    raise RuntimeError
                with archive.open(entry) as stream:
                    array = _read(stream, left_bytes, where=f"{path}: {entry.filename}")
                left_bytes -= array.nbytes
                found[entry.filename.removesuffix(".npy")] = array
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise InputError(f"{path}: not an .npz file (a zip archive of arrays), or a damaged one") from None
    except (RuntimeError, ValueError, OSError):  # encrypted, or packed as Python cannot unpack
        raise InputError(f"{path}: an archive of a kind that is not read; save plain or compressed .npz") from None
    return found


def read_npy(path: Path, *, left_bytes: int = MAX_BYTES) -> Array:
    """The array of an ``.npy`` file; writable. Errors as :func:`read_npz`."""
    with _opened(path) as stream:
        try:
            return _read(stream, left_bytes, where=str(path))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _read(stream: IO[bytes], left_bytes: int, *, where: str) -> Array:
    """One ``.npy`` stream."""
    shape, fortran, dtype = _header(stream, where)
    if dtype.hasobject:
        raise InputError(f"{where}: holds pickled objects, which are never read; save numbers")
    size = math.prod(shape) * dtype.itemsize
    if size > left_bytes or any(length < 0 for length in shape):
        raise InputError(
            f"{where}: shape {shape} of {dtype} needs {size:,} bytes; at most {MAX_BYTES:,} are read in all"
        )
    content = _content(stream, size)
    if len(content) != size:
        raise InputError(f"{where}: ends after {len(content):,} of {size:,} bytes")
    try:
        return np.ndarray(shape, dtype, content, order="F" if fortran else "C")
    except ValueError:  # one axis is empty, another longer than any array's
        raise InputError(f"{where}: shape {shape} is no array's") from None


def _header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, whether the first axis is the fastest, and type of one element."""
    try:
        version = npy.read_magic(stream)
        if version not in _VERSIONS:
            raise ValueError
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on headers that Python 2 wrote
            shape, fortran, dtype = read_header(stream)
        if any(type(length) is not int for length in shape):
            raise TypeError
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError):
        raise InputError(f"{where}: not an array in NumPy's .npy format") from None
    return shape, fortran, dtype


def _content(stream: IO[bytes], size: int) -> bytearray:
    """The next ``size`` bytes, or as many as there are."""
    content = bytearray()
    while part := stream.read(min(_PART_BYTES, size - len(content))):
        content += part
    return content
