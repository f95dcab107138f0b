"""A kernel call as numbers, for code that calls it without the interpreter: where the function is, where its arguments are.

Numba hands a compiled function its arguments one by one, tuples and arrays taken apart. The parts stand in memory here, 8
bytes each; a small function per signature, written in LLVM's words, loads them and calls the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numpy.typing import NDArray

from .loading import argument_types, load_kernels
from .team import Call

_I8, _I64 = ir.IntType(8), ir.IntType(64)
_NAME = "call_with_arguments_in_memory"


class Native(NamedTuple):
    """``numbers``: int64 addresses (caller, kernel, arguments); ``parts``: the arguments, which must stay where they are."""

    numbers: tuple[int, int, int]
    parts: NDArray[np.uint64]


def native(call: Call, thread: int) -> Native:
    """The call of one thread. The arrays among its arguments must live, and stay where they are, as long as it is used."""
    load_kernels([call])
    kinds = argument_types(call)
    compiled = call.kernel.overloads[kinds]
    kernel = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    given = (call.tasks, *call.arguments, *(call.extras[thread] if call.extras else ()))
    values = [part for value, kind in zip(given, kinds, strict=True) for part in _parts(value, kind)]
    caller, expected = _caller(compiled.target_context, compiled.signature.return_type, kinds)
    parts = np.zeros(len(values), np.uint64)
    for at, (value, kind) in enumerate(zip(values, expected, strict=True)):
        parts[at : at + 1].view(kind)[0] = value
    return Native((caller, kernel, parts.ctypes.data), parts)


def _parts(value: Any, kind: Any) -> Iterator[Any]:
    """A value in the order of Numba's data models: of an array its owners (nobody), sizes, address, shape and strides."""
    if isinstance(kind, types.Array):
        yield from (0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
    elif isinstance(kind, types.BaseTuple):
        for one, its_kind in zip(value, kind, strict=True):
            yield from _parts(one, its_kind)
    else:
        yield value


@cache
def _caller(context: Any, result: Any, kinds: tuple[Any, ...]) -> tuple[int, list[str]]:
    """Address of int32 status(kernel, arguments) for kernels of one signature, and the NumPy type of every part."""
    signature = context.call_conv.get_function_type(result, kinds)
    library = context.codegen().create_library(_NAME)
    module = library.create_ir_module(_NAME)
    function = ir.Function(module, ir.FunctionType(signature.return_type, [_I64, _I64]), _NAME)
    builder = ir.IRBuilder(function.append_basic_block())
    results = [builder.alloca(pointer.pointee) for pointer in signature.args[:2]]
    arguments = [
        builder.load(builder.inttoptr(builder.add(function.args[1], ir.Constant(_I64, 8 * at)), kind.as_pointer()))
        for at, kind in enumerate(signature.args[2:])
    ]
    kernel = builder.inttoptr(function.args[0], signature.as_pointer())
    builder.ret(builder.call(kernel, [*results, *arguments]))
    with global_compiler_lock:
        library.add_ir_module(module)
        library.finalize()
    return library.get_pointer_to_function(_NAME), [_in_memory(kind) for kind in signature.args[2:]]


def _in_memory(kind: Any) -> str:
    """The NumPy type of a part; truth values are integers of one bit, of which a load reads the lowest."""
    if isinstance(kind, ir.FloatType):
        return "f4"
    return "f8" if isinstance(kind, ir.DoubleType) else "i8"
