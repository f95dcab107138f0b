"""SCALE-Sim's counts: closed forms, window addresses and buffers against a literal replay of the demand matrices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nestling.accel.arrays.scale_sim import (
    BUFFER_BLOCKS,
    FoldedProduct,
    dram_reads,
    layerwise_rows,
    matrix_addresses,
    metadata_words,
    rowwise_rows,
    window_addresses,
)
from nestling.accel.arrays.scale_sim_kernel import stationary_misses, streamed_misses
from nestling.workloads.errors import InputError

DATAFLOWS = ("weight_stationary", "output_stationary", "input_stationary")


def slow_addresses(H: int, W: int, R: int, S: int, C: int, stride: int) -> np.ndarray:
    """(positions, steps) matrix of image addresses, -1 where a window reaches beyond the image."""
    down, across = -(-(H - R + stride) // stride), -(-(W - S + stride) // stride)
    rows = []
    for p, q in itertools.product(range(down), range(across)):
        rows.append([])
        for r, s, c in itertools.product(range(R), range(S), range(C)):
            y, x = p * stride + r, q * stride + s
            rows[-1].append((y * W + x) * C + c if y < H and x < W else -1)
    return np.array(rows)


def skewed(part: np.ndarray) -> list[list[int]]:
    """Demand of a stream (elements, lanes), cycle by cycle: lane l is l cycles late."""
    length, lanes = part.shape
    return [
        [int(part[cycle - lane, lane]) for lane in range(lanes) if 0 <= cycle - lane < length]
        for cycle in range(length + lanes - 1)
    ]


def slow_reads(product: FoldedProduct, operand: np.ndarray, *, is_filter: bool, block_words: int) -> int:
    """Misses of an operand (outer elements, k) replayed through a row of blocks that are sets of words."""
    R, C = product.rows, product.columns
    stays = product.dataflow == ("weight_stationary" if is_filter else "input_stationary")
    demand: list[list[int]] = []
    for column_fold, row_fold in itertools.product(range(product.column_folds), range(product.row_folds)):
        k_part, c_part = np.s_[row_fold * R : (row_fold + 1) * R], np.s_[column_fold * C : (column_fold + 1) * C]
        if stays:
            demand += operand[c_part, k_part].T[::-1].tolist()
        elif product.dataflow == "output_stationary":
            lanes = c_part if is_filter else k_part
            demand += skewed(operand[lanes].T)
        else:
            demand += skewed(operand[:, k_part])
    blocks: list[set[int]] = [set()]
    misses = 0
    for word in itertools.chain.from_iterable(demand):
        if word >= 0 and not any(word in block for block in blocks):
            misses += 1
            blocks[-1].add(word)
            if len(blocks[-1]) == block_words:
                blocks.append(set())
            if len(blocks) > BUFFER_BLOCKS:
                blocks = [set()]
    return misses


@settings(max_examples=60, deadline=None)
@given(
    H=st.integers(1, 7), W=st.integers(1, 7), R=st.integers(1, 3), S=st.integers(1, 3), C=st.integers(1, 3),
    stride=st.integers(1, 3), n=st.integers(1, 9), rows=st.integers(1, 6), columns=st.integers(1, 6),
    dataflow=st.sampled_from(DATAFLOWS), buffers=st.tuples(st.integers(100, 299), st.integers(100, 299)),
)  # fmt: skip
def test_dram_reads_replay_the_demand(
    H: int, W: int, R: int, S: int, C: int, stride: int, n: int, rows: int, columns: int, dataflow, buffers
) -> None:
    H, W = max(H, R), max(W, S)
    image = slow_addresses(H, W, R, S, C, stride)
    product = FoldedProduct(m=image.shape[0], n=n, k=image.shape[1], rows=rows, columns=columns, dataflow=dataflow)
    found = dram_reads(
        product,
        window_addresses(H=H, W=W, R=R, S=S, C=C, stride=stride),
        input_buffer_bytes=buffers[0],
        filter_buffer_bytes=buffers[1],
    )
    filters = np.arange(n * product.k).reshape(n, product.k)
    assert found[0] == slow_reads(product, image, is_filter=False, block_words=buffers[0] // 100)
    assert found[1] == slow_reads(product, filters, is_filter=True, block_words=buffers[1] // 100)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_a_large_buffer_reads_every_word_once(dataflow) -> None:
    product = FoldedProduct(m=9, n=7, k=20, rows=4, columns=4, dataflow=dataflow)
    found = dram_reads(product, matrix_addresses(m=9, k=20), input_buffer_bytes=1 << 20, filter_buffer_bytes=1 << 20)
    assert found == (9 * 20, 20 * 7)


@given(st.data())
def test_folds_cover_the_product(data: st.DataObject) -> None:
    sizes = {name: data.draw(st.integers(1, 50)) for name in ("m", "n", "k", "rows", "columns")}
    for dataflow in DATAFLOWS:
        product = FoldedProduct(**sizes, dataflow=dataflow)
        along_rows, along_columns, streamed = product.spread
        used = 0
        for top in range(0, along_rows, product.rows):
            for left in range(0, along_columns, product.columns):
                used += min(product.rows, along_rows - top) * min(product.columns, along_columns - left)
        assert along_rows * along_columns * streamed == product.m * product.n * product.k
        assert product.mapping_efficiency == pytest.approx(used / (product.folds * product.rows * product.columns))
        assert 0 < product.compute_utilisation <= product.mapping_efficiency <= 1
        words = product.sram_words
        assert words.inputs >= product.m * product.k
        assert words.filters >= product.k * product.n
        assert words.outputs >= product.m * product.n
    os = FoldedProduct(**sizes, dataflow="output_stationary")
    assert os.sram_words.outputs == os.m * os.n
    assert os.sram_words.counted_outputs - os.sram_words.outputs == os.folds * (os.rows + os.columns)


def test_known_numbers() -> None:
    """ResNet-50's first layer as SCALE-Sim 3.0.0 reported it."""
    product = FoldedProduct(m=12544, n=64, k=147, rows=32, columns=32, dataflow="weight_stationary")
    assert (product.demand_rows, product.total_cycles) == (126380, 126379)
    assert product.sram_words.inputs == 3687936
    assert 100 * product.overall_utilisation(118013952) == pytest.approx(91.19236582027078, rel=1e-12)
    addresses = window_addresses(H=229, W=229, R=7, S=7, C=3, stride=2)
    assert dram_reads(product, addresses, input_buffer_bytes=65536, filter_buffer_bytes=65536) == (1382899, 9408)


def test_the_smallest_product_has_a_utilisation() -> None:
    product = FoldedProduct(m=1, n=1, k=1, rows=1, columns=1, dataflow="output_stationary")
    assert (product.total_cycles, product.overall_utilisation(1)) == (0, 1.0)


@given(k=st.integers(1, 300), group=st.integers(1, 16), data=st.data())
def test_layerwise_rows_count_the_mask(k: int, group: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, group))
    assert layerwise_rows(k, kept=kept, group=group) == sum(i % group < kept for i in range(k))


def test_rowwise_rows_and_metadata() -> None:
    assert [rowwise_rows(k, block=4) for k in (1, 8, 9, 256)] == [4, 4, 8, 128]
    assert metadata_words("ellpack_block", values=4191, k=65, n=127, group=4) == 261.9375
    assert metadata_words("csr", values=1679, k=45, n=73, group=4) == 1725
    assert metadata_words("csc", values=4191, k=65, n=127, group=4) == 4319


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="rows = 0"):
        FoldedProduct(m=1, n=1, k=1, rows=0, columns=4, dataflow="weight_stationary")
    with pytest.raises(InputError, match="dataflow 'row_stationary' must be"):
        FoldedProduct(m=1, n=1, k=1, rows=1, columns=4, dataflow="row_stationary")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sparsity 5:4"):
        layerwise_rows(8, kept=5, group=4)
    with pytest.raises(InputError, match="even block"):
        rowwise_rows(8, block=3)
    with pytest.raises(InputError, match="unknown sparse layout 'coo'"):
        metadata_words("coo", values=1, k=1, n=1, group=2)
    with pytest.raises(InputError, match="does not fit an image"):
        window_addresses(H=2, W=5, R=3, S=1, C=1, stride=1)
    product = FoldedProduct(m=4, n=4, k=4, rows=2, columns=2, dataflow="weight_stationary")
    with pytest.raises(InputError, match="do not belong to a product"):
        dram_reads(product, matrix_addresses(m=3, k=4), input_buffer_bytes=100, filter_buffer_bytes=100)
    with pytest.raises(InputError, match="buffer of 99 bytes is too small"):
        dram_reads(product, matrix_addresses(m=4, k=4), input_buffer_bytes=99, filter_buffer_bytes=100)


def test_kernels_refuse_other_arrays() -> None:
    good, absent = np.arange(3), np.zeros(3, bool)
    with pytest.raises(ValueError, match="non-empty int64"):
        stationary_misses(good.astype(np.int32), good, absent, rows=1, columns=1, capacity=(1, 50))
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        streamed_misses(good, good, absent, folds=(1, 1), lanes=1, inner_lanes=True, capacity=(1, 50))
