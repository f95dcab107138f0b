"""Speed of the DRAM controller: lines per CPU second, beside the bar of the project and the reference simulators' rates."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..sim.dram import Controller
from ..traces.dram_streams import stream
from ..traces.requests import LINE_BYTES, Requests
from .suites.dram import configuration

#: (configuration, stream, lines per CPU second asked for).
_CASES = (
    ("d4x8_bgi", "seqR_16MiB", 20e6),
    ("d4x8_def", "seqR_16MiB", 20e6),
    ("d4x8_def", "gath_d25", 20e6),
    ("d4x8_def", "gath_d25_blk256", 20e6),
    ("d4x8_def", "strideR_512", 20e6),
    ("d4x8_def", "mix3s_256B_st", 20e6),
    ("hbm2_1ch", "seqR_16MiB", 20e6),
    ("lp4x32g", "seqR_16MiB", 20e6),
    ("d4x8_def", "randR", 5e6),
    ("d4x8_def", "randRW50", 5e6),
)
REPEATS = 5


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """Lines per CPU second on one core. ``peer`` is the rate asked for; ``ratio`` is ours / peer."""

    name: str
    ours: float
    peer: float
    ratio: float
    unit: str = "64 B lines/CPU s"


def bench_rows(*, repeats: int = REPEATS) -> list[SpeedRow]:
    """The best of ``repeats`` runs of every case; compilation is not counted."""
    rows = []
    for config, name, peer in _CASES:
        controller, requests = configuration(config), stream(name)
        controller.run(Requests(requests.addresses[:64], requests.is_write[:64]))
        best = min(_cpu_seconds(controller, requests) for _ in range(repeats))
        ours = len(requests) / best
        rows.append(SpeedRow(f"DRAM {config} {name} ({LINE_BYTES} B lines)", ours, peer, ours / peer))
    return rows


def _cpu_seconds(controller: Controller, requests: Requests) -> float:
    start = time.process_time()
    controller.run(requests)
    return time.process_time() - start
