"""Base of everything a design or device file may contain: unknown keys are mistakes, values do not change."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """A part of a hardware file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Quantity(Strict):
    """A number that describes hardware, with where it comes from and whether that source was seen."""

    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    source: Annotated[str, Field(min_length=3)]
    verified: bool


class ZeroHandling(StrEnum):
    """What an array does with a zero operand: compute it anyway, keep the multiplier still, or not issue it at all."""

    NONE = "none"
    GATE = "gate"
    SKIP = "skip"


Size = Annotated[int, Field(gt=0, le=4096)]
OperandBits = Annotated[int, Field(ge=1, le=32)]
AccumulatorBits = Annotated[int, Field(ge=1, le=64)]


class ArrayDescription(Strict):
    """What every array's section of a design file has; ``kind`` selects the model."""

    kind: str
    weight_bits: OperandBits
    activation_bits: OperandBits
    accumulator_bits: AccumulatorBits
