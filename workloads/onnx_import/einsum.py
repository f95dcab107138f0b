"""Which Einsum equations are one (batched) matrix product."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..layers import Gemm
from .draft import Shape


@dataclass(frozen=True)
class EinsumProduct:
    """Letters of both operands, and by role: shared and kept, each operand's own, summed. ``sizes`` by letter."""

    operands: tuple[str, str]
    batch: str
    own: tuple[str, str]
    summed: str
    sizes: Mapping[str, int]

    @property
    def gemm(self) -> Gemm:
        return Gemm(*(math.prod(self.sizes[x] for x in part) for part in (self.batch, *self.own, self.summed)))

    def rows(self, values: NDArray[np.float32], position: int) -> NDArray[np.float32]:
        """A stored operand with (shared, own) letters as rows and summed letters as columns."""
        letters = self.operands[position]
        order = [
            letters.index(x) for part in (self.batch, self.own[position], self.summed) for x in letters if x in part
        ]
        return values.transpose(order)


def einsum_product(equation: str, shapes: Sequence[Shape | None]) -> EinsumProduct | int | None:
    """The product that an equation is; its MACs where it is none; None where even these cannot be told.

    MACs of anything else: one per combination of all letters, as the equation defines.
    """
    text = equation.replace(" ", "")
    left, _, result = text.partition("->")
    operands = left.split(",")
    sizes: dict[str, int] = {}
    for letters, shape in zip(operands, shapes, strict=False):
        if shape is None or len(letters) != len(shape) or not letters.isalpha():
            return None
        sizes.update(zip(letters, shape, strict=True))
    if len(operands) != len(shapes) or not set(result) <= set(sizes):
        return None
    return _product(operands, result, sizes) or math.prod(sizes.values())


def _product(operands: Sequence[str], result: str, sizes: Mapping[str, int]) -> EinsumProduct | None:
    if len(operands) != 2 or any(len(set(letters)) != len(letters) for letters in (*operands, result)):
        return None
    left, right = operands
    shared = set(left) & set(right)
    if any(x not in result for x in left + right if x not in shared) or not all(sizes.values()):
        return None
    return EinsumProduct(
        operands=(left, right),
        batch="".join(x for x in left if x in shared and x in result),
        own=("".join(x for x in left if x not in shared), "".join(x for x in right if x not in shared)),
        summed="".join(x for x in left if x in shared and x not in result),
        sizes=sizes,
    )
