"""What a user is told of the number formats that a network ran in: which layers, their share of the work, and the error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..workloads.errors import InputError

if TYPE_CHECKING:
    from ..sim.executor import NetworkExecutor
    from ..sim.executor.observations import SelfCheck

#: Layers that a note names; of more it gives the number.
_NAMED = 8


def check_allow(allow: Sequence[str] | None) -> tuple[str, ...]:
    """The formats of ``--allow``.

    Raises
    ------
    InputError
        for a name that is none, with the nearest one.
    """
    if not allow:
        return ()  # loads nothing
    from ..sim.executor.simd.reduced.choices import allowed_formats

    return allowed_formats(allow)


def refuse_unexecuted(allow: Sequence[str], *, executed: bool) -> None:
    """Raise InputError if formats are allowed to a run that executes nothing."""
    if allow and not executed:
        raise InputError(
            "--allow chooses number formats on the CPU, but nothing is executed: that needs weight values and inputs, and no "
            "--no-execute"
        )


def format_notes(executor: NetworkExecutor, levels: Iterable[int], inputs: Any) -> list[str]:
    """One note per level: layers in reduced formats, their share of the multiply-accumulates, and how far the outputs for
    ``inputs`` are from float32's. None where no format is allowed."""
    if not executor.allow or executor.planes is None:
        return []
    return [f"level {level}: {_note(executor, level, inputs)}" for level in levels]


def _note(executor: NetworkExecutor, level: int, inputs: Any) -> str:
    assert executor.planes is not None  # whoever allows formats has planes
    macs, by_format = executor.macs(level), dict[str, list[str]]()
    for name, fmt in executor.planes.formats(level).items():
        by_format.setdefault(fmt, []).append(name)
    by_format.pop("float32", None)
    if not by_format:
        allowed = " and ".join(executor.allow)
        if all(product.layer.groups > 1 for product in executor.planes.products.values()):
            return (
                f"all layers run in float32: {allowed} exists for convolutions without groups, of which there are none"
            )
        return (
            f"all layers run in float32: {allowed} is allowed, but neither measured nor sure to be faster "
            "(`nestling bench --tune MODEL --allow ...` measures)"
        )
    total = sum(macs.values())
    parts = []
    for fmt, names in by_format.items():
        share = sum(macs.get(name, 0) for name in names) / max(1, total)
        which = ", ".join(names) if len(names) <= _NAMED else f"{len(names)} layers from {names[0]} to {names[-1]}"
        parts.append(f"{which} in {fmt} ({share:.0%} of the MACs)")
    far = executor.deviation(inputs, level)
    return (
        f"{'; '.join(parts)}, all else in float32; against float32 outputs differ by up to {far.error:.1e} of the largest, "
        f"top-1 in {far.changed} of {far.images} images"
    )


def failure(level: int, check: SelfCheck) -> str:
    """What a failed self-check says."""
    text = (
        f"level {level}: executor differs from the dense reference by {check.error:.2e}, allowed {check.tolerance:.0e}"
    )
    if check.layer_share > 1:
        text += f"; layer '{check.layer}' errs by {check.layer_share:.3g} times the bound of its number format"
    return text
