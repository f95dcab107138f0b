"""The host CPU beside the accelerators: how long a kernel of the executor should take on this machine, from exact counts.

A ``Design`` states buffers, a DRAM and energies, and its layers are tiled for them. Of a host none of this is known: its
caches manage themselves, and no energy counter can be read everywhere, so a number for its energy would be invented.
Therefore a host CPU is no ``Design`` but a model of its own, with the same duties: a file, every number with its source,
unknown keys refused. ``energy`` is "not modelled". One file describes one machine; all its numbers are measured there.

The time of a kernel call is a roofline (Williams, Waterman, Patterson, CACM 52(4), 2009) with a ceiling per kernel instead of
one for all, and with the overlap that was measured instead of a perfect one:

    seconds = call + max(memory, compute + exposed x memory)
    compute = sum over counts of count x seconds per unit;   memory = sum of bytes / bandwidth of where they lie
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from .strict import Quantity, Strict

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
#: Lanes of the vectors that counts are in: float32 elements of 64 bytes.
LANES = 16


@dataclass(frozen=True)
class Work:
    """What one kernel call has to do, counted exactly. Vectors are 16 float32 lanes.

    Attributes
    ----------
    kernel : which kernel, with what its cost depends on, such as "windowed 7".
    useful_flop : two per retained weight and output position; 0 for kernels that only move data.
    multiply_adds : vectors that are multiplied and added (or otherwise combined).
    visits : times that the sums of a row are picked up.
    segments : times that the non-zeros of one level within such a visit are begun.
    copies : vectors copied before they are used.
    stores : vectors written to the output, or added from a residual.
    operand_bytes : memory whose parts the multiply-adds read again and again.
    sums_bytes : memory in which sums wait between two visits.
    stream_bytes, passes : weights with their indices, and how often they are read from one end to the other.
    input_bytes, output_bytes : the layer's tensors.
    """

    kernel: str
    useful_flop: int = 0
    multiply_adds: int = 0
    visits: int = 0
    segments: int = 0
    copies: int = 0
    stores: int = 0
    operand_bytes: int = 0
    sums_bytes: int = 0
    stream_bytes: int = 0
    passes: int = 1
    input_bytes: int = 0
    output_bytes: int = 0

    @property
    def moved_bytes(self) -> int:
        """Weights, input and output, each once: what must move at least."""
        return self.stream_bytes + self.input_bytes + self.output_bytes


class Timed(NamedTuple):
    """A measured call: its counts, the bytes touched between two of them, and its CPU seconds."""

    work: Work
    within: int
    seconds: float


class CacheLevel(Strict):
    """A level of the memory hierarchy as one thread uses it; ``bytes``: None for memory, the last level."""

    name: Annotated[str, Field(min_length=1)]
    bytes: Quantity | None
    read_bytes_per_s: Quantity
    write_bytes_per_s: Quantity


class KernelCost(Strict):
    """Seconds per unit of :class:`Work`; ``far``: where the operand, or the sums, are not in the first-level cache.

    ``exposed``: the part of the memory time that is not hidden behind computing. ``call_s``: a call with nothing to do.
    """

    multiply_add_s: Seconds
    far_multiply_add_s: Seconds
    visit_s: Seconds
    far_visit_s: Seconds
    segment_s: Seconds
    copy_s: Seconds
    store_s: Seconds
    exposed: Seconds
    call_s: Seconds


@dataclass(frozen=True)
class Prediction:
    """Predicted time of one call, see the module's text. ``efficiency``: useful FLOP per second of ``compute_s``, as a
    fraction of the multiply-add peak."""

    compute_s: float
    memory_s: float
    call_s: float
    exposed: float
    efficiency: float

    @property
    def seconds(self) -> float:
        """Predicted seconds of the call."""
        return self.call_s + max(self.memory_s, self.compute_s + self.exposed * self.memory_s)

    @property
    def bound(self) -> Literal["compute", "memory"]:
        """Which of the two takes longer."""
        return "memory" if self.memory_s > self.compute_s else "compute"


class HostCpu(Strict):
    """One thread of one machine.

    ``crossover_density``: density at which the sparse kernel is as fast as the dense one; None: not measured, no
    prediction needs it. ``kernels``: name -> costs, calibrated as ``kernels_source`` says.
    """

    kind: Literal["host-cpu"] = "host-cpu"
    name: str
    multiply_add_flop_per_s: Quantity
    caches: Annotated[tuple[CacheLevel, ...], Field(min_length=1)]
    crossover_density: Quantity | None = None
    kernels: dict[str, KernelCost] = Field(default_factory=dict)
    kernels_source: str
    energy: Literal["not modelled"] = "not modelled"

    @model_validator(mode="after")
    def _ordered(self) -> HostCpu:
        *inner, last = (level.bytes for level in self.caches)
        sizes = [size.value for size in inner if size is not None]
        if last is not None or len(sizes) < len(inner) or sizes != sorted(set(sizes)):
            raise ValueError("caches must grow, and end with memory, whose bytes are null")
        speeds = [x for level in self.caches for x in (level.read_bytes_per_s, level.write_bytes_per_s)]
        if not all(speed.value for speed in (self.multiply_add_flop_per_s, *speeds)):
            raise ValueError("peaks and bandwidths must be greater than 0")
        return self

    def home(self, size: int) -> CacheLevel:
        """The first level that holds ``size`` bytes."""
        return next((x for x in self.caches if x.bytes is not None and size <= x.bytes.value), self.caches[-1])

    def predict(self, work: Work, *, within: int = 0) -> Prediction | None:
        """Time of one call; None if its kernel was not calibrated.

        ``within``: bytes touched between two calls of the same kind, such as those of a whole network; 0: nothing else is.
        """
        cost = self.kernels.get(work.kernel)
        if cost is None:
            return None
        *counts, memory, _ = self.terms(work, within=within)
        compute = float(np.dot(counts, _fields(cost)[:-2]))
        useful = work.useful_flop / self.multiply_add_flop_per_s.value
        return Prediction(compute, float(memory), cost.call_s, cost.exposed, useful / compute if compute else 0.0)

    def terms(self, work: Work, *, within: int = 0) -> NDArray[np.float64]:
        """What each field of a :class:`KernelCost` is multiplied by, in their order.

        Operands read in no particular order are found in the first-level cache as often as the part of them that fits.
        """
        adds, near = work.multiply_adds, self._share(work.operand_bytes)
        visits, kept = work.visits, self._share(work.operand_bytes + work.sums_bytes) if work.sums_bytes else 1.0
        split = (near * adds, (1 - near) * adds, kept * visits, (1 - kept) * visits)
        return np.array([*split, work.segments, work.copies, work.stores, self.memory_s(work, within=within), 1.0])

    def _share(self, size: int) -> float:
        """The part of ``size`` bytes that the first-level cache holds."""
        cache = self.caches[0].bytes
        return 1.0 if cache is not None and size <= cache.value else (0.0 if cache is None else cache.value / size)

    def memory_s(self, work: Work, *, within: int = 0) -> float:
        """Seconds for all bytes of a call: weights from where the last inference left them, then from where they fit; tensors
        from where the layer's own bytes fit, since the layer before has just written its input; sums that wait outside the
        two inner caches."""
        own = self.home(work.moved_bytes)
        cold = self.home(max(work.moved_bytes, within))
        again = self.home(work.stream_bytes + work.operand_bytes)
        read = work.stream_bytes / cold.read_bytes_per_s.value + work.input_bytes / own.read_bytes_per_s.value
        repeated = work.stream_bytes * (work.passes - 1) / again.read_bytes_per_s.value
        return read + repeated + work.output_bytes / own.write_bytes_per_s.value + self._sums_s(work)

    def _sums_s(self, work: Work) -> float:
        """Seconds to fetch and put back sums, as far as they do not fit the two inner caches."""
        size = work.operand_bytes + work.sums_bytes
        home = self.home(size)
        inner = self.caches[1].bytes if len(self.caches) > 2 else None
        if not work.sums_bytes or inner is None or size <= inner.value:
            return 0.0
        outside = 1 - inner.value / size
        per_byte = 1 / home.read_bytes_per_s.value + 1 / home.write_bytes_per_s.value
        return outside * work.visits * 4 * LANES * per_byte

    def bound_s(self, work: Work, *, within: int = 0) -> float:
        """The roofline proper: no kernel can be faster than the useful FLOP at the peak, or each byte once."""
        own, cold = self.home(work.moved_bytes), self.home(max(work.moved_bytes, within))
        read = work.stream_bytes / cold.read_bytes_per_s.value + work.input_bytes / own.read_bytes_per_s.value
        moved = max(read, work.output_bytes / own.write_bytes_per_s.value)
        return max(work.useful_flop / self.multiply_add_flop_per_s.value, moved)


def _fields(cost: KernelCost) -> NDArray[np.float64]:
    return np.array([getattr(cost, name) for name in KernelCost.model_fields])


def fitted_cost(host: HostCpu, timed: Sequence[Timed]) -> KernelCost:
    """The non-negative costs with the least squared relative error over measured calls of one kernel.

    Exact: non-negative least squares ends with some costs zero and the others free (Lawson and Hanson, 1974, chapter 23);
    there are at most 2^9 such choices, and all are tried.
    """
    measured = np.array([call.seconds for call in timed])
    matrix = np.array([host.terms(call.work, within=call.within) for call in timed]) / measured[:, None]
    scale = matrix.max(axis=0)
    counted = np.flatnonzero(scale)
    best, found = np.inf, np.zeros(matrix.shape[1])
    for chosen in range(1, 1 << len(counted)):
        free = [column for bit, column in enumerate(counted) if chosen >> bit & 1]
        part = np.linalg.lstsq(matrix[:, free] / scale[free], np.ones(len(measured)), rcond=None)[0]
        error = float(np.sum((matrix[:, free] / scale[free] @ part - 1) ** 2))
        if part.min() >= 0 and error < best:
            best, found = error, np.zeros(matrix.shape[1])
            found[free] = part / scale[free]
    return KernelCost(**dict(zip(KernelCost.model_fields, found.tolist(), strict=True)))
