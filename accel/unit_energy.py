"""Unit energies of a design file: stated with their source, or taken from an Accelergy energy reference table.

A value is ``{value, source, verified}``, with ``node_nm`` if it was published for another node than the design's, or an
entry of a table: ``{ert: ERT.yaml, entry: MAC.compute}``. Where the design counts bytes, the entry says how many ``bits`` its
action moves; elsewhere ``times`` says how many such actions one of ours takes. An entry becomes a sourced value on reading.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, PrivateAttr, Tag, ValidationInfo, model_validator

from ..workloads.errors import InputError
from .ert import ErtFiles
from .strict import Quantity, Strict
from .technology import ENERGY_FACTORS, ENERGY_SOURCE, energy_scale

#: Key of a validation context under which the tables of the file being read are kept.
ERT_FILES = "ert_files"
_BITS_PER_BYTE = 8
_Node = Annotated[float, Field(ge=min(ENERGY_FACTORS), le=max(ENERGY_FACTORS))]
_Shown = Literal["pe_memory", "registers", "mac"]


class UnitEnergy(Quantity):
    """Picojoules per action or byte; ``node_nm``: node it was published for, the design's by default."""

    node_nm: _Node | None = None
    _published: UnitEnergy | None = PrivateAttr(default=None)

    @property
    def published(self) -> UnitEnergy:
        """The value before any scaling."""
        return self._published or self

    def at_node(self, node_nm: float, *, published_nm: float, voltage_v: float) -> Self:
        """This energy at another node and the same supply; ``published_nm``: its node where it states none.

        The result is an estimate, hence not verified. Scaling a scaled energy starts from the published one.

        Raises
        ------
        InputError
            for nodes or supplies outside the fits.
        """
        published = self.published
        known = published.node_nm or published_nm
        if known == node_nm:
            return published  # type: ignore[return-value]  # of our own type: it was copied from one
        factor = energy_scale(known, node_nm, voltage_v)
        note = f"scaled from {known:g} to {node_nm:g} nm at {voltage_v:g} V, x {factor:.4g} ({ENERGY_SOURCE})"
        value, source = published.value * factor, f"{published.source}; {note}"
        scaled = self.model_copy(update={"value": value, "source": source, "verified": False, "node_nm": node_nm})
        scaled._published = published
        return scaled


class ActionEnergy(UnitEnergy):
    """Energy of one action of an array model, and the component it is shown under."""

    component: _Shown


class _ErtEntry(Strict):
    """``entry``: COMPONENT.ACTION of the table in ``ert``, a path relative to the design file."""

    ert: Annotated[str, Field(min_length=1)]
    entry: Annotated[str, Field(min_length=1)]
    _energy_pj: float = PrivateAttr(default=0.0)
    _source: str = PrivateAttr(default="")

    @model_validator(mode="after")
    def _exists(self, info: ValidationInfo) -> Self:
        files = (info.context or {}).get(ERT_FILES) or ErtFiles(Path())
        try:
            self._energy_pj, name = files.lookup(self.ert, self.entry)
        except InputError as error:
            raise ValueError("\n".join(error.problems)) from None
        self._source = f"energy reference table {self.ert}, {name}"
        return self


class ErtAction(_ErtEntry):
    """One action of ours = ``times`` actions of the table."""

    times: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1
    node_nm: _Node | None = None

    def fields(self) -> dict[str, Any]:
        """Fields of the unit energy that this entry stands for."""
        times = "" if self.times == 1 else f", x {self.times:g}"
        value, source = self._energy_pj * self.times, f"{self._source}{times}"
        return {"value": value, "source": source, "verified": True, "node_nm": self.node_nm}

    def resolved(self) -> UnitEnergy:
        return UnitEnergy(**self.fields())


class ErtShownAction(ErtAction):
    """As :class:`ErtAction`, with the component it is shown under."""

    component: _Shown

    def resolved(self) -> ActionEnergy:
        return ActionEnergy(**self.fields(), component=self.component)


class ErtBytes(_ErtEntry):
    """Energy per byte from an action that moves ``bits``."""

    bits: Annotated[int, Field(gt=0)]

    def fields(self) -> dict[str, Any]:
        """Fields of the quantity that this entry stands for."""
        value = self._energy_pj * _BITS_PER_BYTE / self.bits
        return {"value": value, "source": f"{self._source}, {self.bits} bits", "verified": True}

    def resolved(self) -> Quantity:
        return Quantity(**self.fields())


class ErtBytesAtNode(ErtBytes):
    """As :class:`ErtBytes`, on chip: the technology matters."""

    node_nm: _Node | None = None

    def resolved(self) -> UnitEnergy:
        return UnitEnergy(**self.fields(), node_nm=self.node_nm)


def _is_entry(value: Any) -> bool:
    return isinstance(value, _ErtEntry) or (isinstance(value, dict) and "ert" in value)


def _resolved(value: Any) -> Any:
    return value.resolved() if isinstance(value, ErtAction | ErtBytes) else value


if TYPE_CHECKING:
    Energy = UnitEnergy
    EnergyPerByte = UnitEnergy
    ShownEnergy = ActionEnergy
    DramEnergyPerByte = Quantity
else:  # what a file may say there; what a validator makes of it

    def _or_entry(stated: type[Quantity], entry: type[_ErtEntry]) -> Any:
        def tag(value: Any) -> str:
            return (entry if _is_entry(value) else stated).__name__

        either = Annotated[stated, Tag(stated.__name__)] | Annotated[entry, Tag(entry.__name__)]
        return Annotated[either, Discriminator(tag), AfterValidator(_resolved)]

    Energy = _or_entry(UnitEnergy, ErtAction)
    EnergyPerByte = _or_entry(UnitEnergy, ErtBytesAtNode)
    ShownEnergy = _or_entry(ActionEnergy, ErtShownAction)
    DramEnergyPerByte = _or_entry(Quantity, ErtBytes)
