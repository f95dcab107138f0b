"""The host CPU's model: roofline and costs against arithmetic by hand and SciPy's non-negative least squares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nestling.accel.host_cpu import CacheLevel, HostCpu, KernelCost, Timed, Work, fitted_cost
from nestling.accel.strict import Quantity
from pydantic import ValidationError
from scipy.optimize import nnls

COST = KernelCost(
    multiply_add_s=1e-9, far_multiply_add_s=3e-9, visit_s=2e-9, far_visit_s=5e-9, segment_s=7e-9, copy_s=11e-9,
    store_s=13e-9, exposed=0.5, call_s=1e-6,
)  # fmt: skip


def here(value: float) -> Quantity:
    return Quantity(value=value, source="measured here", verified=True)


def host(*, cost: KernelCost | None = COST, sizes: tuple[int | None, ...] = (1 << 10, 1 << 20, None)) -> HostCpu:
    """Caches that read 100, 50, 25 GB/s ... and write half of it."""
    levels = [
        CacheLevel(name=f"L{i + 1}", bytes=None if size is None else here(size), read_bytes_per_s=here(1e11 / 2**i),
                   write_bytes_per_s=here(5e10 / 2**i))
        for i, size in enumerate(sizes)
    ]  # fmt: skip
    return HostCpu(
        name="a machine", multiply_add_flop_per_s=here(1e11), caches=tuple(levels), crossover_density=here(0.7),
        kernels={} if cost is None else {"k": cost}, kernels_source="measured here",
    )  # fmt: skip


def test_every_count_has_its_price() -> None:
    work = Work("k", multiply_adds=100, visits=10, segments=5, copies=4, stores=3)
    found = host().predict(work)
    assert found is not None
    assert found.compute_s == pytest.approx(100e-9 + 20e-9 + 35e-9 + 44e-9 + 39e-9)
    assert found.seconds == pytest.approx(found.compute_s + 1e-6)
    assert (found.memory_s, found.bound) == (0, "compute")


def test_operands_and_sums_beyond_the_first_cache_cost_more() -> None:
    near = Work("k", multiply_adds=100, visits=10, operand_bytes=512, sums_bytes=512)
    assert host().terms(near)[:4].tolist() == [100, 0, 10, 0]
    assert host().terms(replace(near, operand_bytes=2048, sums_bytes=0))[:4].tolist() == [50, 50, 10, 0]
    assert host().terms(replace(near, sums_bytes=3 * 1024 + 512))[:4].tolist() == [100, 0, 2.5, 7.5]


def test_bytes_come_from_where_they_fit() -> None:
    work = Work("k", stream_bytes=1000, input_bytes=400, output_bytes=600, passes=3)
    warm = 1000 / 5e10 + 400 / 5e10 + 2 * 1000 / 1e11 + 600 / 2.5e10  # 2000 bytes lie in L2, the weights alone in L1
    assert host().memory_s(work) == pytest.approx(warm)
    cold = warm - 1000 / 5e10 + 1000 / 2.5e10  # a network of 2 MB has pushed the weights out to memory
    assert host().memory_s(work, within=2 << 20) == pytest.approx(cold)
    assert host().home(1 << 10).name == "L1"
    assert host().home(1 + (1 << 20)).name == "L3"


def test_sums_beyond_the_inner_caches_are_moved_at_every_visit() -> None:
    inner = Work("k", visits=1000, sums_bytes=1 << 20)
    assert host().memory_s(inner) == 0
    outside = replace(inner, sums_bytes=4 << 20)  # a quarter fits
    assert host().memory_s(outside) == pytest.approx(0.75 * 1000 * 64 * (1 / 2.5e10 + 1 / 1.25e10))


def test_memory_is_hidden_in_part_and_never_beaten() -> None:
    work = Work("k", multiply_adds=1000, input_bytes=400)
    found = host().predict(work)
    assert found is not None
    assert found.seconds == pytest.approx(1e-6 + 1e-6 + 0.5 * 400 / 1e11)
    loaded = host().predict(replace(work, input_bytes=10**6))
    assert loaded is not None
    assert (loaded.bound, loaded.seconds) == ("memory", pytest.approx(1e-6 + 1e6 / 5e10))


def test_the_roofline_is_the_larger_of_work_and_bytes() -> None:
    work = Work("k", useful_flop=2000, stream_bytes=100, input_bytes=100)
    assert host().bound_s(work) == pytest.approx(2000 / 1e11)
    assert host().bound_s(replace(work, useful_flop=10)) == pytest.approx(200 / 1e11)
    assert work.moved_bytes == 200


def test_efficiency_is_the_share_of_the_peak() -> None:
    found = host().predict(Work("k", useful_flop=3200, multiply_adds=100))
    assert found is not None
    assert found.efficiency == pytest.approx(3200 / 1e11 / 100e-9)


def test_a_kernel_without_costs_is_not_predicted() -> None:
    assert host().predict(Work("other")) is None


counts = st.integers(0, 10**6)
works = st.builds(
    Work, st.just("k"), multiply_adds=counts, visits=counts, segments=counts, copies=counts, stores=counts,
    operand_bytes=counts, sums_bytes=counts, stream_bytes=counts, input_bytes=counts, output_bytes=counts,
    passes=st.integers(1, 9),
)  # fmt: skip


@given(works, st.sampled_from(["multiply_adds", "visits", "segments", "copies", "stores", "passes"]))
def test_more_work_is_never_predicted_to_be_faster(work: Work, what: str) -> None:
    before, after = host().predict(work), host().predict(replace(work, **{what: getattr(work, what) + 1}))
    assert before is not None
    assert after is not None
    assert after.seconds >= before.seconds


def random_calls(seed: int, *, noise: float) -> list[Timed]:
    random = np.random.default_rng(seed)
    fields = ("multiply_adds", "visits", "segments", "copies", "stores", "operand_bytes", "sums_bytes", "input_bytes")
    found = []
    for _ in range(40):
        work = Work("k", **{field: int(10 ** random.uniform(1, 5)) for field in fields})
        predicted = host().predict(work)
        assert predicted is not None
        exact = predicted.call_s + predicted.compute_s + 0.5 * predicted.memory_s
        found.append(Timed(work, 0, exact * (1 + noise * random.standard_normal())))
    return found


def test_exact_times_give_the_costs_back() -> None:
    found = fitted_cost(host(), random_calls(0, noise=0))
    for name, value in COST.model_dump().items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize("seed", range(3))
def test_noisy_times_give_the_least_squares_of_scipy(seed: int) -> None:
    timed = random_calls(seed, noise=0.3)
    found = np.array(list(fitted_cost(host(), timed).model_dump().values()))
    matrix = np.array([host().terms(call.work) / call.seconds for call in timed])
    scale = matrix.max(axis=0)
    _, residual = nnls(matrix / scale, np.ones(len(timed)))
    assert np.linalg.norm(matrix @ found - 1) == pytest.approx(residual, rel=1e-9)
    assert (found >= 0).all()


def test_counts_that_never_occur_cost_nothing() -> None:
    timed = [Timed(Work("k", copies=n), 0, 1e-6 + n * 1e-9) for n in (0, 10, 1000)]
    found = fitted_cost(host(), timed)
    assert (found.copy_s, found.call_s) == (pytest.approx(1e-9), pytest.approx(1e-6))
    assert found.multiply_add_s == found.exposed == 0


def test_a_host_survives_its_file_and_models_no_energy() -> None:
    text = host().model_dump_json()
    assert HostCpu.model_validate_json(text) == host()
    assert host().energy == "not modelled"
    assert all("measured here" in level.read_bytes_per_s.source for level in host().caches)
    with pytest.raises(ValidationError, match="not modelled"):
        HostCpu.model_validate(host().model_dump() | {"energy": "5 J"})
    with pytest.raises(ValidationError, match="watts"):
        HostCpu.model_validate(host().model_dump() | {"watts": 5})


@pytest.mark.parametrize("sizes", [(1024, 512, None), (1024, 1024, None), (1024,), (None, 1024), (None, None)])
def test_caches_must_grow_and_end_with_memory(sizes: tuple[int | None, ...]) -> None:
    with pytest.raises(ValidationError, match="caches must grow"):
        host(sizes=sizes)


def test_peaks_must_be_positive() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        HostCpu.model_validate(host().model_dump() | {"multiply_add_flop_per_s": here(0).model_dump()})
