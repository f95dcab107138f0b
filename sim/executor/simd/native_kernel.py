"""How Numba hands arguments to a compiled function: one by one, tuples and arrays taken apart."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types

from .vectors_kernel import _I64

_NAME = "call_with_arguments_in_memory"


def parts(value: Any, kind: Any) -> Iterator[Any]:
    """A value in the order of Numba's data models: of an array its owners (nobody), sizes, address, shape and strides."""
    if isinstance(kind, types.Array):
        yield from (0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
    elif isinstance(kind, types.BaseTuple):
        for one, its_kind in zip(value, kind, strict=True):
            yield from parts(one, its_kind)
    elif isinstance(kind, types.Integer | types.Float | types.Boolean):
        yield value
    else:
        raise TypeError(f"a kernel called by address takes arrays, numbers and tuples of them, not {kind}")


class Caller(NamedTuple):
    """``address`` of int32 status(kernel, arguments); ``engine`` owns its code."""

    address: int
    engine: Any


def make_caller(context: Any, result: Any, kinds: tuple[Any, ...]) -> tuple[Caller, list[str]]:
    """What calls kernels of one signature with arguments in memory, 8 bytes each, and the NumPy type of every part."""
    signature = context.call_conv.get_function_type(result, kinds)
    module = ir.Module(_NAME)
    function = ir.Function(module, ir.FunctionType(signature.return_type, [_I64, _I64]), _NAME)
    builder = ir.IRBuilder(function.append_basic_block())
    results = [builder.alloca(pointer.pointee) for pointer in signature.args[:2]]
    arguments = [
        builder.load(builder.inttoptr(builder.add(function.args[1], ir.Constant(_I64, 8 * at)), kind.as_pointer()))
        for at, kind in enumerate(signature.args[2:])
    ]
    kernel = builder.inttoptr(function.args[0], signature.as_pointer())
    builder.ret(builder.call(kernel, [*results, *arguments]))
    machine = llvm.Target.from_default_triple().create_target_machine(opt=0)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()
    return Caller(engine.get_function_address(_NAME), engine), [_in_memory(kind) for kind in signature.args[2:]]


def _in_memory(kind: Any) -> str:
    """The NumPy type of a part; truth values are integers of one bit, of which a load reads the lowest."""
    if isinstance(kind, ir.FloatType):
        return "f4"
    return "f8" if isinstance(kind, ir.DoubleType) else "i8"
