"""Training under N:M patterns: exact patterns, straight-through gradients, LBC's removal of combinations."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from nestling.workloads.errors import InputError
from nestling.workloads.sparsify.nm import ranks_in_groups

torch = pytest.importorskip("torch")

from nestling.workloads.torch_levels import Lbc, SrSte, magnitude_mask  # noqa: E402
from nestling.workloads.torch_levels.nm import from_groups, to_groups  # noqa: E402
from torch import nn  # noqa: E402

SHAPES = [(5, 8, 3, 3), (4, 10), (3, 6, 1, 1), (2, 3, 5), (4, 1, 3, 3)]


def weights(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kept_per_group(mask: torch.Tensor, m: int) -> list[int]:
    return to_groups(mask.float(), m).sum(1).int().tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_groups_run_along_input_channels_and_back(shape: tuple[int, ...]) -> None:
    w = weights(shape)
    groups = to_groups(w, 4)
    torch.testing.assert_close(from_groups(groups, w.shape), w)
    # The first group: the first four input channels of the first filter at the first kernel position.
    first = w.flatten(2)[0, :4, 0] if w.dim() > 2 else w[0, :4]
    torch.testing.assert_close(groups[0][: len(first)], first)


@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) != 3])
def test_magnitude_masks_are_those_of_the_numpy_sparsifier(shape: tuple[int, ...]) -> None:
    w = weights(shape).mul(2).round()  # with ties and zeros
    for n, m in ((2, 4), (1, 8), (3, 4)):
        expected = ranks_in_groups(np.abs(w.numpy()), m) < n
        np.testing.assert_array_equal(magnitude_mask(w, n=n, m=m).numpy(), expected)


def test_sr_ste_gradient_is_the_papers() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 3)
    model = nn.Sequential(layer)
    dense, x = layer.weight.detach().clone(), weights((5, 8), 1)
    SrSte(model, n=2, m=4, decay=0.01)
    mask = magnitude_mask(dense, n=2, m=4)
    torch.testing.assert_close(layer.weight, dense * mask)
    out = model(x)
    out.backward(torch.ones_like(out))
    expected = torch.ones(5, 3).T @ x + 0.01 * ~mask * dense
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, expected)


def test_sr_ste_ends_as_a_plain_model_with_the_pattern() -> None:
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    srste = SrSte(model, n=1, m=4, layers=["0"])
    srste.finish()
    assert type(model[0]) is nn.Conv2d
    assert max(kept_per_group(model[0].weight != 0, 4)) == 1
    assert (model[2].weight != 0).all()


def run_lbc(model: nn.Module, lbc: Lbc, steps: int, **changes: float) -> None:
    optimizer = torch.optim.SGD(lbc.parameter_groups(**changes), lr=0.1, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        model(weights((7, model[0].in_features), step)).square().mean().backward()
        optimizer.step()
        lbc.step()


@pytest.mark.parametrize(("n", "m", "inputs"), [(2, 4, 8), (1, 8, 16), (2, 4, 11), (3, 4, 6), (1, 4, 5)])
def test_lbc_ends_with_one_exact_pattern_per_group(n: int, m: int, inputs: int) -> None:
    """Also in a shorter last group: min(n, its length) weights."""
    model = nn.Sequential(nn.Linear(inputs, 6))
    lbc = Lbc(model, n=n, m=m, steps=20)
    assert (model[0].weight != 0).all()  # every combination alive: nothing is masked
    run_lbc(model, lbc, 20)
    lbc.finish()
    expected = [min(n, len(part)) for part in np.array_split(np.arange(inputs), range(m, inputs, m))] * 6
    assert kept_per_group(model[0].weight != 0, m) == expected
    assert type(model[0]) is nn.Linear


def test_lbc_schedule() -> None:
    lbc = Lbc(nn.Sequential(nn.Linear(8, 2)), n=2, m=4, steps=100, ramp=(0.1, 0.5))
    assert [lbc.alive(step) for step in (0, 10, 30, 49, 50, 100)] == [6, 6, 2, 2, 1, 1]
    assert lbc.alive(20) == 1 + np.ceil(5 * 0.75**3)


def test_lbc_score_gradient_is_the_sum_over_its_positions() -> None:
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    w = model[0].weight.detach().clone()
    lbc = Lbc(model, n=2, m=4, steps=10)
    x = weights((1, 4), 3)
    model(x).backward()
    scores = lbc.parameter_groups()[1]["params"][0]
    per_position = (x * w)[0]  # d loss / d mask
    expected = [per_position[list(pair)].sum() for pair in combinations(range(4), 2)]
    torch.testing.assert_close(scores.grad[0], torch.stack(expected))
    torch.testing.assert_close(scores.detach(), torch.full((1, 6), 1 / 3))


def test_a_live_score_of_zero_is_not_lost() -> None:
    """The reference code marks removed combinations by exact zeros, so a live score at zero dies with them."""
    model = nn.Sequential(nn.Linear(4, 1))
    lbc = Lbc(model, n=2, m=4, steps=10, ramp=(0.0, 0.1))
    scores = lbc.parameter_groups()[1]["params"][0]
    with torch.no_grad():
        scores[:] = torch.tensor([-1.0, -2.0, 0.0, -3.0, -4.0, -5.0])
    assert (model[0].weight != 0).all()
    lbc.step()
    assert (model[0].weight != 0).tolist() == [[True, False, False, True]]  # the third pair: positions 0 and 3


def test_scores_do_not_decay() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    lbc = Lbc(model, n=2, m=4, steps=10)
    own, scores = lbc.parameter_groups(weight_decay=0.5)
    assert (own["weight_decay"], scores["weight_decay"]) == (0.5, 0.0)
    ids = [id(p) for group in (own, scores) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m: Lbc(m, n=8, m=16, steps=10), "804 scores per weight"),
        (lambda m: Lbc(m, n=4, m=4, steps=10), "1 <= N < M"),
        (lambda m: Lbc(m, n=2, m=4, steps=10, ramp=(0.5, 0.5)), "start < end"),
        (lambda m: SrSte(m, n=0, m=4), "1 <= N < M"),
        (lambda m: SrSte(m, n=1, m=4, layers=["1"]), "layer"),
    ],
)
def test_mistakes(make, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(nn.Sequential(nn.Linear(16, 2)))
