"""Reading a model file without trusting it: sizes first, values as views, external data only from the file's folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..errors import InputError

#: protobuf cannot hold more; larger models keep their weights in external data.
MAX_FILE_BYTES = (1 << 31) - 1
MAX_TENSORS = 200_000
#: A sparse initializer may unfold to so many elements per stored value, and small ones to as much as they like.
_SPARSE_EXPANSION, _SMALL_TENSOR = 4096, 1 << 22


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A parsed model whose initializers were moved out of it.

    ``constants``: their values (views into the file where possible); ``absent``: shape and number type of those whose
    external file does not exist; ``stored_bytes``: what the files hold.
    """

    model: onnx.ModelProto
    constants: dict[str, NDArray[np.generic]]
    absent: Mapping[str, tuple[tuple[int, ...], np.dtype[np.generic]]]
    stored_bytes: int


def one_line(error: Exception) -> str:
    """A library's message as part of ours."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


def read_model(path: Path) -> ModelFile:
    """Parse ``path`` and take its initializers out; nothing is computed yet.

    Raises
    ------
    InputError
        if the file is missing, too large, not ONNX, or one of its tensors is not what its header says.
    """
    model = _parse(path)
    graph = model.graph
    if len(graph.initializer) + len(graph.sparse_initializer) > MAX_TENSORS or len(graph.node) > MAX_TENSORS:
        raise InputError(f"more than {MAX_TENSORS} tensors or operators")
    store = TensorStore(path.parent)
    constants: dict[str, NDArray[np.generic]] = {}
    absent = {}
    for tensor in graph.initializer:
        if not isinstance(tensor.name, str) or not tensor.name or tensor.name in constants or tensor.name in absent:
            raise InputError(f"initializer {tensor.name!r} has no name of its own")
        values = store.values(tensor)
        if values is None:
            absent[tensor.name] = tuple(tensor.dims), np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        else:
            constants[tensor.name] = values
    for sparse in graph.sparse_initializer:
        if not isinstance(sparse.values.name, str) or not sparse.values.name or sparse.values.name in constants:
            raise InputError(f"sparse initializer {sparse.values.name!r} has no name of its own")
        constants[sparse.values.name] = store.dense(sparse)
    del graph.initializer[:]
    del graph.sparse_initializer[:]
    return ModelFile(model, constants, absent, stored_bytes=sum(v.nbytes for v in constants.values()))


def _parse(path: Path) -> onnx.ModelProto:
    try:
        if not path.is_file():
            raise InputError("no such file" if not path.exists() else "not a regular file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path.stat().st_size} bytes; files over {MAX_FILE_BYTES} bytes are refused")
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, OSError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not a readable ONNX file ({one_line(error)})") from None
    if not model.HasField("graph") or not model.graph.node:
        raise InputError("not an ONNX model: it has no operators")
    return model


class TensorStore:
    """Turns tensor headers into arrays. ``folder``: the only place external data may lie in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, NDArray[np.uint8] | None] = {}

    def values(self, tensor: TensorProto) -> NDArray[np.generic] | None:
        """The tensor's values, read-only; None if its external file does not exist.

        Raises
        ------
        InputError
            for strings, negative or absurd dimensions, contents of the wrong size, or a path out of the folder.
        """
        shape = tuple(tensor.dims)
        where = f"tensor '{tensor.name}'"
        if any(size < 0 for size in shape):
            raise InputError(f"{where} has a negative dimension: {list(shape)}")
        if tensor.data_type == TensorProto.STRING:
            raise InputError(f"{where} holds strings; only numbers are supported")
        try:
            if tensor.data_location == TensorProto.EXTERNAL:
                return self._external(tensor, where)
            return np.asarray(numpy_helper.to_array(tensor))
        except InputError:
            raise
        except (ValueError, TypeError, KeyError, OverflowError, MemoryError, DecodeError, EncodeError) as error:
            raise InputError(f"{where} of shape {list(shape)} is not readable ({one_line(error)})") from None

    def dense(self, sparse: onnx.SparseTensorProto) -> NDArray[np.generic]:
        """A sparse tensor with its zeros written out."""
        name, shape = sparse.values.name, tuple(sparse.dims)
        values, indices = self.values(sparse.values), self.values(sparse.indices)
        size = math.prod(shape)
        if values is None or indices is None or not shape or min(shape) < 0 or values.ndim != 1:
            raise InputError(f"sparse tensor '{name}' is not readable")
        if size > max(_SMALL_TENSOR, _SPARSE_EXPANSION * values.size):
            raise InputError(f"sparse tensor '{name}' of shape {list(shape)} holds only {values.size} values")
        flat = _flat_positions(indices, shape)
        if flat is None or flat.shape != values.shape or (flat.size and not 0 <= flat.min() <= flat.max() < size):
            raise InputError(f"sparse tensor '{name}' has positions outside its shape {list(shape)}")
        result = np.zeros(size, values.dtype)
        result[flat] = values
        return result.reshape(shape)

    def _external(self, tensor: TensorProto, where: str) -> NDArray[np.generic] | None:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        entries = {entry.key: entry.value for entry in tensor.external_data}
        content = self._file(str(entries.get("location", "")), where)
        if content is None:
            return None
        offset, elements = int(entries.get("offset", 0)), math.prod(tensor.dims)
        length = int(entries.get("length", elements * dtype.itemsize))
        if offset < 0 or length < 0 or offset + length > content.size:
            raise InputError(
                f"{where}: bytes {offset} to {offset + length} lie outside its data file of {content.size}"
            )
        part = content[offset : offset + length]
        if length == elements * dtype.itemsize and offset % dtype.itemsize == 0:
            return np.asarray(part.view(dtype).reshape(tuple(tensor.dims)))
        packed = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=part.tobytes())  # below 8 bits
        return np.asarray(numpy_helper.to_array(packed))

    def _file(self, location: str, where: str) -> NDArray[np.uint8] | None:
        if location not in self._files:
            self._files[location] = self._opened(location, where)
        return self._files[location]

    def _opened(self, location: str, where: str) -> NDArray[np.uint8] | None:
        posix, windows = PurePosixPath(location), PureWindowsPath(location)
        outside = (
            posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in (*posix.parts, *windows.parts)
        )
        if not location or outside or "\0" in location:
            raise InputError(f"{where}: external data '{location}' must be a file name inside the model's folder")
        try:
            file = (self._folder / location).resolve()
            if not file.is_relative_to(self._folder.resolve()):
                raise InputError(f"{where}: external data '{location}' is a link out of the model's folder")
            if not file.exists():
                return None
            if not file.is_file():
                raise InputError(f"{where}: external data '{location}' is not a regular file")
            return np.memmap(file, np.uint8, mode="r") if file.stat().st_size else np.zeros(0, np.uint8)
        except OSError as error:
            raise InputError(f"{where}: external data '{location}' is not readable ({one_line(error)})") from None


def _flat_positions(indices: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """ONNX allows linear positions (n,) or coordinates (n, rank)."""
    if indices.dtype != np.int64:
        return None
    positions = indices.astype(np.int64)
    if positions.ndim == 1:
        return positions
    if positions.ndim != 2 or positions.shape[1] != len(shape) or (positions < 0).any() or (positions >= shape).any():
        return None
    return np.asarray(np.ravel_multi_index(tuple(positions.T), shape), dtype=np.int64)
