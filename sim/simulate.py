"""Run a trace on a design: array model -> tile pipeline -> counts -> energy, with every identity checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

from ..accel.arrays import ARRAYS, LayerPlan
from ..accel.arrays.operands import input_nonzero_macs
from ..accel.design import Design, OperatingPoint
from ..accel.energy import energy_by_component_j
from ..accel.strict import ZeroHandling
from ..traces.parallel import in_order
from ..traces.trace import LayerTrace, Trace, combined_digest
from ..workloads.errors import InputError, unknown_name
from .dram_pipeline import DramTileEvents
from .memory import ENGINES, Engine, command_counts, open_memory
from .pipeline import CycleSplit, TileEvents, split_cycles
from .results import LayerResult, LevelResult, Result, Timeline

#: Below this share of the multiplier-cycles a layer is named in a warning.
LOW_UTILISATION = 0.10
#: Relative differences of energies below this are rounding of sums.
ROUNDING = 1e-9


class ConservationError(RuntimeError):
    """An identity of the model does not hold: a defect of nestling, never of the input."""


def simulate(
    trace: Trace,
    design: Design,
    *,
    point: str | None = None,
    levels: Sequence[int] | None = None,
    engine: Engine = "recurrence",
    timeline_layer: str | None = None,
    workers: int = 1,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Cycles, counts and energy of every level of ``trace`` on ``design``.

    Parameters
    ----------
    point : operating point by name; the fastest by default.
    levels : levels to run; all by default.
    engine : ``recurrence`` (compiled) or ``simpy``; both give the same result.
    timeline_layer : layer whose tile events are kept; by default the one with the most cycles at the densest level run.
    workers : layers simulated at once (threads); the result does not depend on it. A layer of a stored trace is read when
        its turn comes and let go of afterwards.
    progress : called with each layer's name once it is simulated.

    Raises
    ------
    InputError
        for a level, operating point, engine or layer that does not exist, or a layer too large for any tiling.
    ConservationError
        if a sum of parts is not its total.
    """
    chosen = _chosen_levels(trace, levels)
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    check_widths(trace, design)
    run = _Run(trace, design, design.point(point), engine)
    digests, by_level = run.all_layers(chosen, workers=workers, progress=progress)
    return _result(run, by_level, digest=combined_digest(digests), timeline_layer=timeline_layer)


def _result(
    run: _Run, by_level: Mapping[int, Sequence[LayerResult]], *, digest: str, timeline_layer: str | None
) -> Result:
    """The result of all layers by level, with the timeline and the warnings of the densest level that was run."""
    trace, design, densest = run.trace, run.design, by_level[min(by_level)]
    return Result(
        network=trace.network,
        design=design,
        point=run.point,
        levels=[run.level(level, layers) for level, layers in by_level.items()],
        trace_digest=digest,
        timeline=_timeline(run, densest, timeline_layer),
        warnings=_warnings(trace, design, densest) + _fallbacks(by_level) + _rises(by_level),
    )


def _chosen_levels(trace: Trace, levels: Sequence[int] | None) -> tuple[int, ...]:
    chosen = tuple(range(trace.levels)) if levels is None else tuple(levels)
    if not chosen:
        raise InputError("no level to simulate")
    for level in chosen:
        trace.check_level(level)
    if len(set(chosen)) < len(chosen):
        raise InputError(f"levels {', '.join(map(str, chosen))}: a level is given twice")
    return chosen


def check_widths(trace: Trace, design: Design) -> None:
    """The trace's bytes must be those of the operands the array computes with."""
    wanted = (design.array.weight_bits, design.array.activation_bits)
    for layer in trace.facts:
        found = (layer.weight_bits, layer.activation_bits)
        if layer.layer.has_weights and found != wanted:
            raise InputError(
                f"layer '{layer.layer.name}' was lowered with {found[0]}-bit weights and {found[1]}-bit activations, design "
                f"'{design.name}' computes with {wanted[0]} and {wanted[1]}; lower it with --weight-bits {wanted[0]} "
                f"--activation-bits {wanted[1]}"
            )


class _Run:
    """What stays the same over the layers of one simulation."""

    def __init__(self, trace: Trace, design: Design, point: OperatingPoint, engine: Engine) -> None:
        self.trace, self.design, self.point = trace, design, point
        self.memory = open_memory(design, clock_hz=point.clock_hz, engine=engine)

    def all_layers(
        self, levels: Sequence[int], *, workers: int, progress: Callable[[str], None] | None
    ) -> tuple[list[bytes], dict[int, list[LayerResult]]]:
        """The digest of every layer, and the results of all layers by level."""
        digests: list[bytes] = []
        by_level: dict[int, list[LayerResult]] = {level: [] for level in levels}
        facts = self.trace.facts
        answers = in_order(partial(self.levels, levels=levels), range(len(facts)), workers=workers)
        for each, (digest, results) in zip(facts, answers, strict=True):
            if progress is not None:
                progress(each.layer.name)
            digests.append(digest)
            for result in results:
                by_level[result.level].append(result)
        return digests, by_level

    def levels(self, number: int, *, levels: Sequence[int]) -> tuple[bytes, list[LayerResult]]:
        """The digest of a layer, and its results at each of the levels."""
        layer = self.trace.layers[number]
        plans = ARRAYS[self.design.array.kind].plans(layer, levels, self.design)
        return layer.digest(), [self.layer(layer, plan) for plan in plans]

    def layer(self, trace: LayerTrace, plan: LayerPlan) -> LayerResult:
        repeat = trace.layer.repeat
        events = self.memory.events(trace, plan)
        split = split_cycles(plan.tiles, plan.timing, events)
        counts = _counts(trace, plan, self.design)
        _check(trace, plan, events, split)
        _check_work(trace, plan, counts, self.design)
        if isinstance(events, DramTileEvents):
            counts |= command_counts(events.dram)
        counts = {name: count * repeat for name, count in counts.items()}
        cycles = events.end * repeat
        return LayerResult(
            layer=trace.layer.name,
            op=trace.layer.op,
            level=plan.level,
            cycles=cycles,
            split=_scaled(split, repeat),
            counts=counts,
            energy_j=energy_by_component_j(counts, cycles=cycles, design=self.design, point=self.point),
            utilisation=_useful_slots(plan, counts) / max(1, plan.multipliers * cycles),
            tiles=len(plan.tiles),
            weight_bytes=trace.bytes(self.design.weight_format, plan.level) if trace.layer.has_weights else 0,
            compulsory_bytes=plan.compulsory_bytes * repeat,
            patterns={name: macs * repeat for name, macs in plan.patterns.items()},
            dram=self.memory.totals(events, repeat=repeat, seconds=cycles / self.point.clock_hz),
        )

    def level(self, level: int, layers: Sequence[LayerResult]) -> LevelResult:
        return LevelResult(
            level=level,
            density=float(self.trace.weight_densities[level]),
            weight_bytes=self.trace.weight_bytes(self.design.weight_format, level),
            macs=self.trace.macs(level),
            layers=layers,
            clock_hz=self.point.clock_hz,
        )


def _counts(trace: LayerTrace, plan: LayerPlan, design: Design) -> dict[str, int]:
    """Action counts of one run of the layer, int."""
    counts = plan.tiles.totals()
    counts.pop("mac_weight_nonzero")
    counts |= _work(trace, plan, design, issued=counts.pop("mac_issued"))
    counts["mac_skipped"] = plan.mac_skipped
    counts["mac_dense"] = plan.mac_dense
    counts["pe_slots"] = plan.pe_slots
    counts["pe_idle"] = plan.pe_idle
    # What DRAM delivers is written into the buffers, what it takes is read from them.
    weights, inputs = int(plan.tiles.weight_bytes.sum()), int(plan.tiles.input_bytes.sum())
    for name, amount in (
        ("weight_buffer_write_bytes", weights),
        ("input_buffer_write_bytes", inputs),
        ("output_buffer_read_bytes", counts["dram_write_bytes"]),
    ):
        counts[name] = counts.get(name, 0) + amount
    return counts


def _work(trace: LayerTrace, plan: LayerPlan, design: Design, *, issued: int) -> dict[str, int]:
    """What becomes of the issued MACs: effectual (both operands non-zero), ineffectual (computed all the same) or gated."""
    handling = design.zero_handling
    gates_inputs, gates_weights = handling.inputs == ZeroHandling.GATE, handling.weights == ZeroHandling.GATE
    zero_weight = plan.mac_weight_zero_issued
    # Arrays that skip zero inputs have counted what is left on the very operands that decided their cycles.
    skips_inputs = handling.inputs == ZeroHandling.SKIP
    counted = issued - zero_weight - plan.mac_input_zero_issued
    effectual = counted if skips_inputs else input_nonzero_macs(trace, plan.level)
    zero_input = issued - zero_weight - effectual  # with a weight that is not zero
    both_zero = _zero_input_share(trace, plan, effectual) if gates_inputs and not gates_weights else 0
    gated = (zero_weight if gates_weights else both_zero) + (zero_input if gates_inputs else 0)
    ineffectual = (0 if gates_weights else zero_weight - both_zero) + (0 if gates_inputs else zero_input)
    return {
        "mac_gated": gated,
        "mac_computed": effectual + ineffectual,
        "mac_effectual": effectual,
        "mac_ineffectual": ineffectual,
    }


def _useful_slots(plan: LayerPlan, counts: Mapping[str, int]) -> float:
    """Multiplier-cycles of one run that serve effectual MACs; a bit-serial lane spends one per term."""
    issued = plan.mac_dense - plan.mac_skipped
    return plan.slots_used * counts["mac_effectual"] / max(1, issued)


def _zero_input_share(trace: LayerTrace, plan: LayerPlan, effectual: int) -> int:
    """Issued products of a zero weight whose input is zero, too: all of them where nothing is skipped, else in proportion."""
    zero_weight = plan.mac_dense - trace.macs(plan.level) // trace.layer.repeat
    both_zero = zero_weight - (input_nonzero_macs(trace, None) - effectual)
    issued = plan.mac_dense - plan.mac_skipped - (plan.mac_dense - zero_weight)
    return both_zero * max(0, issued) // max(1, zero_weight)


def _scaled(split: CycleSplit, repeat: int) -> CycleSplit:
    return CycleSplit(**{name: getattr(split, name) * repeat for name in CycleSplit.__dataclass_fields__})


def _check(trace: LayerTrace, plan: LayerPlan, events: TileEvents, split: CycleSplit) -> None:
    """The conservation identities of DESIGN.md, on every layer of every run."""
    totals = plan.tiles.totals()
    repeat, layer = trace.layer.repeat, trace.layer
    identities = {
        "non-zero weight MACs over tiles = non-zeros x positions": (
            totals["mac_weight_nonzero"] * repeat,
            trace.macs(plan.level),
        ),
        "issued + skipped = dense": (totals["mac_issued"] + plan.mac_skipped, plan.mac_dense),
        "busy + stall = cycles": (split.total, events.end),
        "fetched operands = what the tiling promised": (totals["dram_read_bytes"], plan.tiling.dram_bytes),
        "stored outputs = output elements": (totals["dram_write_bytes"], _output_bytes(trace, plan)),
    }
    _demand(identities, f"layer '{layer.name}' level {plan.level}")
    if isinstance(events, DramTileEvents):
        lines = (events.dram.read_bytes, events.dram.written_bytes)
        if lines[0] < totals["dram_read_bytes"] or lines[1] < totals["dram_write_bytes"]:
            raise ConservationError(f"layer '{layer.name}' level {plan.level}: lines of {lines} bytes are too few")
    if min(vars(split).values()) < 0:
        raise ConservationError(f"layer '{layer.name}' level {plan.level}: negative share of cycles: {split}")


def _check_work(trace: LayerTrace, plan: LayerPlan, counts: Mapping[str, int], design: Design) -> None:
    """Every dense MAC is effectual, ineffectual, gated or skipped, and every multiplier-cycle is used or idle."""
    kinds = ("mac_effectual", "mac_ineffectual", "mac_gated", "mac_skipped")
    handling, nonzero = design.zero_handling, int(plan.tiles.actions["mac_weight_nonzero"].sum())
    skips = ZeroHandling.SKIP in (handling.weights, handling.inputs)
    kept = plan.mac_dense - plan.mac_skipped - plan.mac_weight_zero_issued
    identities = {
        "issued with a non-zero weight": (
            kept,
            min(kept, nonzero) if handling.inputs == ZeroHandling.SKIP else nonzero,
        ),
        "effectual + ineffectual + gated + skipped = dense": (sum(counts[k] for k in kinds), counts["mac_dense"]),
        "used + idle = multiplier-cycles": (plan.slots_used + counts["pe_idle"], counts["pe_slots"]),
        "MACs by weight pattern = dense": (sum(plan.patterns.values()), plan.mac_dense if plan.patterns else 0),
        "skipped without skipping": (0 if skips else plan.mac_skipped, 0),
        "negative work": (min(0, *(counts[k] for k in (*kinds, "pe_idle"))), 0),
    }
    _demand(identities, f"layer '{trace.layer.name}' level {plan.level}")


def _demand(identities: Mapping[str, tuple[int, int]], where: str) -> None:
    for name, (found, expected) in identities.items():
        if found != expected:
            raise ConservationError(f"{where}: {name}: {found} != {expected}")


def _output_bytes(trace: LayerTrace, plan: LayerPlan) -> int:
    if trace.activation_bits % 8 == 0:
        return trace.layer.output_size * trace.activation_bits // 8
    return int(plan.tiles.store_bytes.sum())  # blocks are padded to whole bytes


def _timeline(run: _Run, layers: Sequence[LayerResult], wanted: str | None) -> Timeline | None:
    names = [layer.layer for layer in layers]
    if not names:
        return None
    if wanted is not None and wanted not in names:
        raise unknown_name("layer", wanted, names)
    name = wanted or max(layers, key=lambda x: x.cycles).layer
    trace = run.trace.layer(name)
    level = layers[0].level
    plan = next(iter(ARRAYS[run.design.array.kind].plans(trace, [level], run.design)))
    return Timeline(layer=name, level=level, plan=plan, events=run.memory.events(trace, plan))


def _warnings(trace: Trace, design: Design, layers: Sequence[LayerResult]) -> list[str]:
    """Low utilisation, operators without a model, assumed activations, unverified constants: each with its share."""
    found = []
    macs = max(1, sum(layer.counts["mac_dense"] for layer in layers))
    low = [layer for layer in layers if layer.utilisation < LOW_UTILISATION]
    if low:
        share = sum(layer.counts["mac_dense"] for layer in low) / macs
        names = ", ".join(f"{x.layer} {x.utilisation:.1%}" for x in low[:4]) + (" ..." if len(low) > 4 else "")
        found.append(
            f"less than {LOW_UTILISATION:.0%} of the multipliers at work in {_count(low, 'layer')} "
            f"({share:.1%} of MACs): {names}"
        )
    if trace.data_movement:
        ops = sorted({x.op for x in trace.data_movement})
        total = sum(x.bytes for x in trace.data_movement)
        found.append(
            f"not modelled: {_count(trace.data_movement, 'operator')} ({', '.join(ops)}), 0.0% of MACs, "
            f"{total / 1024:.1f} KiB of data movement"
        )
    assumed = [x for x in trace.facts if not x.measured]
    if assumed:
        share = sum(x.layer.macs for x in assumed) / macs
        found.append(
            f"activation zeros are assumed, not measured, for {_count(assumed, 'layer')} ({share:.1%} of MACs)"
        )
    dynamic = [x for x in trace.facts if not x.layer.has_weights]
    if dynamic:
        share = sum(x.layer.macs for x in dynamic) / macs
        found.append(f"{_count(dynamic, 'product')} of two activations ({share:.1%} of MACs) counted as dense")
    repeated = [x for x in trace.facts if x.layer.repeat > 1]
    if repeated:
        found.append(f"weights fetched again in every time step of {_count(repeated, 'recurrent layer')}")
    if "density model" in trace.source:
        found.append(f"masks are not the network's own: {trace.source.rsplit('; ', 1)[-1]}")
    found += trace.notes
    found += design.notes()
    found += [f"unverified constant: {text}" for text in design.unverified()]
    return found


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}" if len(things) == 1 else f"{len(things)} {noun}s"


def _fallbacks(by_level: Mapping[int, Sequence[LayerResult]]) -> list[str]:
    """Levels whose weights do not obey the patterns of a structured array everywhere, with the share that runs dense."""
    found = []
    for level in sorted(by_level):
        dense = {x.layer: x.patterns["dense"] for x in by_level[level] if x.patterns.get("dense")}
        if not dense:
            continue
        macs = {x.layer: x.counts["mac_dense"] for x in by_level[level]}
        names = " or ".join(name for name in by_level[level][0].patterns if name != "dense")
        worst = sorted(dense, key=lambda name: -dense[name])
        shares = ", ".join(f"{name} {dense[name] / macs[name]:.1%}" for name in worst[:4])
        found.append(
            f"level {level}: {sum(dense.values()) / sum(macs.values()):.1%} of MACs lie in tiles that do not obey {names} "
            f"everywhere and run dense, in {len(dense)} of {_count(by_level[level], 'layer')}: {shares}"
            f"{' ...' if len(worst) > 4 else ''}"
        )
    return found


def _rises(by_level: Mapping[int, Sequence[LayerResult]]) -> list[str]:
    """Layers in which a sparser level takes more cycles or energy than the denser one, with the largest rise."""
    found: dict[str, float] = {}
    for denser, sparser in pairwise(sorted(by_level)):
        for a, b in zip(by_level[denser], by_level[sparser], strict=True):
            energy = sum(b.energy_j.values()) / max(sum(a.energy_j.values()), 1e-30) - 1
            rise = max(b.cycles / max(1, a.cycles) - 1, energy)
            if rise > ROUNDING:
                found[a.layer] = max(found.get(a.layer, 0.0), rise)
    if not found:
        return []
    worst = max(found, key=lambda name: found[name])
    return [
        f"a sparser level takes more cycles or energy in {_count(list(found), 'layer')}, at most +{found[worst]:.2%} "
        f"({worst}): tiles meet DRAM or output lines at other times"
    ]
