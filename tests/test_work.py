"""What becomes of every multiply-accumulate and every multiplier-cycle: identities, their guard, what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from nestling.accel.design import DESIGNS, load_design
from nestling.sim import simulate as module
from nestling.sim.simulate import ConservationError, simulate
from nestling.traces.lowering import lower
from nestling.traces.trace import Activations
from nestling.workloads.layers import conv
from nestling.workloads.network import INPUT

from .spine_cases import mixed_network, network

TRACE = lower(mixed_network())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"slots_used": 10**12}, "negative work: -"),
        ({"mac_weight_zero_issued": 10**12}, "issued with a non-zero weight: -"),
        ({"patterns": {"2:4": 1}}, "MACs by weight pattern = dense: 1 != "),
    ],
)
def test_work_that_does_not_add_up_is_a_defect_of_ours(
    monkeypatch: pytest.MonkeyPatch, broken: dict[str, Any], message: str
) -> None:
    kind = module.ARRAYS["systolic"]

    def wrong(*arguments: Any) -> Any:
        for plan in kind.plans(*arguments):
            yield replace(plan, **broken)

    monkeypatch.setitem(module.ARRAYS, "systolic", replace(kind, plans=wrong))
    with pytest.raises(ConservationError, match=f"layer 'stem' level 0: {message}"):
        simulate(TRACE, load_design("systolic-16x16"))


@pytest.mark.parametrize("name", DESIGNS)
def test_every_mac_and_every_multiplier_cycle_is_accounted_for(name: str) -> None:
    described = load_design(name)
    for level in simulate(TRACE, described).levels:
        for layer in level.layers:
            c = layer.counts
            assert c["mac_effectual"] + c["mac_ineffectual"] + c["mac_gated"] + c["mac_skipped"] == c["mac_dense"]
            assert c["mac_computed"] == c["mac_effectual"] + c["mac_ineffectual"]
            used = (
                c["terms"] if "terms" in c else c["mac_computed"] + c["mac_gated"]
            )  # bit-serial lanes: a slot per term
            assert used + c["pe_idle"] == c["pe_slots"]
            assert min(c.values()) >= 0
            assert 0 <= layer.idle_share <= 1
            # Stalls only lower the share of useful multiplier-cycles.
            assert layer.utilisation <= 1 - layer.idle_share + 1e-12


def test_designs_agree_on_the_effectual_work() -> None:
    """Which products have two non-zero operands is a fact of the layer; dense inputs leave nothing to draw but padding."""
    layer = conv("a", INPUT, C=6, H=9, K=20, R=3, stride=2, padding=1)
    trace = lower(network(layer))
    found = {
        name: [level.layers[0].counts["mac_effectual"] for level in simulate(trace, load_design(name)).levels]
        for name in DESIGNS
    }
    assert found == dict.fromkeys(DESIGNS, found["scnn"])


def test_a_lane_of_a_bit_serial_array_is_used_once_per_set_bit() -> None:
    """Inputs of 7 have three set bits; no weight is zero: used lane-cycles are three per product, and all of them useful."""
    layer = conv("c", INPUT, C=16, H=4, K=256, R=1)
    keep = np.ones(layer.weight_shape, np.uint8)
    sample = np.full((1, 16, 4, 4), 7, np.int16)
    seen = {"c": Activations(density=1.0, images=1, sample=sample)}
    trace = lower(network(layer, keep=keep, levels=1), activations=seen)
    only = simulate(trace, load_design("bit-pragmatic")).levels[0].layers[0]
    lanes = 16 * 16 * 16 * 16
    assert only.counts["mac_effectual"] == layer.macs
    assert only.counts["pe_slots"] - only.counts["pe_idle"] == 3 * layer.macs
    assert only.utilisation == pytest.approx(3 * layer.macs / (lanes * only.cycles))


def test_structured_arrays_say_what_runs_dense() -> None:
    layer = conv("c", INPUT, C=48, H=4, K=128, R=1)
    keep = np.zeros(layer.weight_shape, np.uint8)
    keep[:, 0::4] = keep[:, 3::4] = 2  # level 1 is 2:4 everywhere
    keep[:64] = np.maximum(keep[:64], 1)  # level 0: the upper half of the filters is dense
    found = simulate(lower(network(layer, keep=keep, levels=2)), load_design("stc-2-4"))
    upper, whole = (level.layers[0].patterns for level in found.levels)
    macs = layer.macs
    assert upper == {"2:4": macs // 2, "dense": macs // 2}
    assert whole == {"2:4": macs, "dense": 0}
    said = [text for text in found.warnings if "run dense" in text]
    assert said == [
        "level 0: 50.0% of MACs lie in tiles that do not obey 2:4 everywhere and run dense, in 1 of 1 layer: c 50.0%"
    ]
