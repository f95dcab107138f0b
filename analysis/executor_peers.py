"""What a user would run instead of our kernels: dense and sparse products of installed libraries, one thread, float32."""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sim.executor.simd.planes import aligned

Floats = NDArray[np.float32]
#: Prepares a product W @ X (most also take one vector) and returns what runs it once; raises ImportError if the library
#: is not installed.
Peer = Callable[[Floats, Floats], Callable[[], Any]]
#: Sparse peers that convert to row lists are not run above this density: dense products are far ahead there.
SCIPY_DENSITY = 0.25


def numpy_dense(w: Floats, x: Floats) -> Callable[[], Any]:
    """NumPy's BLAS."""
    out = np.empty((len(w), *x.shape[1:]), np.float32)
    return lambda: np.matmul(w, x, out=out)


def torch_dense(w: Floats, x: Floats) -> Callable[[], Any]:
    """PyTorch's float32 product (MKL)."""
    torch = _torch()
    a, b = torch.from_numpy(w), torch.from_numpy(x)
    out = torch.empty((len(w), x.shape[1]))
    return lambda: torch.mm(a, b, out=out)


def torch_bfloat16(w: Floats, x: Floats) -> Callable[[], Any]:
    """PyTorch's bfloat16 product (oneDNN, on the matrix unit where there is one): 8 significant bits."""
    torch = _torch()
    a, b = torch.from_numpy(w).to(torch.bfloat16), torch.from_numpy(x).to(torch.bfloat16)
    return lambda: a @ b


def torch_csr(w: Floats, x: Floats) -> Callable[[], Any]:
    """PyTorch's compressed sparse rows."""
    import warnings

    torch = _torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "beta state"
        a, b = torch.from_numpy(w).to_sparse_csr(), torch.from_numpy(x)
    return lambda: a @ b


def scipy_csr(w: Floats, x: Floats) -> Callable[[], Any]:
    """SciPy's compressed sparse rows."""
    sparse = importlib.import_module("scipy.sparse")
    a = sparse.csr_matrix(w)
    return lambda: a @ x


def mkl_csr(w: Floats, x: Floats) -> Callable[[], Any]:
    """MKL's inspector-executor, told the number of columns and calls to expect, operands at multiples of 64 bytes."""
    mkl = _mkl()
    rows, columns = np.nonzero(w)
    starts = np.searchsorted(rows, np.arange(len(w) + 1)).astype(np.int32)
    indices, values = columns.astype(np.int32), w[rows, columns]
    x = x.reshape(len(x), -1)
    b, out = _copy(x), aligned(len(w) * x.shape[1]).reshape(len(w), -1)
    matrix, whole = ctypes.c_void_p(), ctypes.c_int
    describe = (whole * 3)(20, 0, 0)  # general matrix
    sizes = [whole(n) for n in w.shape]
    pointer = [a.ctypes.data_as(ctypes.c_void_p) for a in (starts[:-1], starts[1:], indices, values)]
    row_major, plain, width = whole(101), whole(10), whole(x.shape[1])
    _check(mkl.mkl_sparse_s_create_csr(ctypes.byref(matrix), whole(0), *sizes, *pointer))
    if x.shape[1] == 1:
        _check(mkl.mkl_sparse_set_mv_hint(matrix, plain, describe_by_value(describe), whole(1000)))
    else:
        hint = (describe_by_value(describe), row_major, width, whole(1000))
        _check(mkl.mkl_sparse_set_mm_hint(matrix, plain, *hint))
    _check(mkl.mkl_sparse_optimize(matrix))
    operands = [a.ctypes.data_as(ctypes.c_void_p) for a in (b, out)]
    keep = (starts, indices, values, b, out)
    one, none = ctypes.c_float(1), ctypes.c_float(0)
    common = (plain, one, matrix, describe_by_value(describe))

    def multiply_vector() -> object:
        mkl.mkl_sparse_s_mv(*common, operands[0], none, operands[1])
        return keep

    def multiply_matrix() -> object:
        mkl.mkl_sparse_s_mm(*common, row_major, operands[0], width, width, none, operands[1], width)
        return keep

    return multiply_vector if x.shape[1] == 1 else multiply_matrix


class _Description(ctypes.Structure):
    """MKL's ``matrix_descr``: type, part, diagonal."""

    _fields_ = (("type", ctypes.c_int), ("mode", ctypes.c_int), ("diag", ctypes.c_int))


def describe_by_value(numbers: ctypes.Array[ctypes.c_int]) -> _Description:
    """The structure that MKL takes by value."""
    return _Description(*numbers)


#: Peers by the name that tables show.
PEERS: dict[str, Peer] = {
    "torch dense": torch_dense,
    "NumPy dense": numpy_dense,
    "MKL sparse": mkl_csr,
    "torch CSR": torch_csr,
    "SciPy CSR": scipy_csr,
    "torch dense bf16": torch_bfloat16,
}


def _torch() -> Any:
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    return torch


def _mkl() -> Any:
    """MKL's runtime library, where pip puts it; one thread."""
    found = sorted((Path(sys.prefix) / "lib").glob("libmkl_rt.so*"))
    if not found:
        raise ImportError("no MKL runtime library")
    mkl = ctypes.CDLL(str(found[-1]), mode=ctypes.RTLD_LOCAL)
    mkl.MKL_Set_Num_Threads(1)
    return mkl


def _check(status: int) -> None:
    if status != 0:
        raise ImportError(f"MKL's sparse functions fail with status {status}")


def _copy(array: Floats) -> Floats:
    out: Floats = aligned(array.size).reshape(array.shape)
    out[:] = array
    return out
