"""What a user is told of the number formats that a network ran in: which layers, their share of the work, and the error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..workloads.errors import InputError

if TYPE_CHECKING:
    from ..sim.executor import NetworkExecutor
    from ..sim.executor.observations import SelfCheck
    from ..sim.executor.simd.network import PlaneNetwork

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
        return f"all layers run in float32: {_why_float32(executor.allow, executor.planes)}"
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


def _why_float32(allow: tuple[str, ...], planes: PlaneNetwork) -> str:
    from ..sim.executor.simd.planner import Planner

    allowed, several = " and ".join(allow), len(allow) > 1
    if all(product.layer.groups > 1 for product in planes.products.values()):
        return f"{allowed} {'exist' if several else 'exists'} for convolutions without groups, of which there are none"
    is_allowed = f"{allowed} {'are' if several else 'is'} allowed, but"
    if Planner(allow=allow).knows(planes.network):
        return f"{is_allowed} float32 was measured to be faster"
    return f"{is_allowed} neither measured nor sure to be faster (`nestling bench --tune MODEL --allow ...` measures)"


def failure(level: int, check: SelfCheck) -> str:
    """What a failed self-check says."""
    if check.layer_share is not None:
        return (
            f"level {level}: layer '{check.layer}' differs from the dense reference by {check.layer_share:.3g} times the "
            "bound of its number format"
        )
    return (
        f"level {level}: executor differs from the dense reference by {check.error:.2e}, allowed {check.tolerance:.0e}"
    )
