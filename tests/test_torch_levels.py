"""Nested levels in one's own PyTorch loop: nesting, freezing, schedules, normalisation. Runs where PyTorch is installed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from nestling.workloads.errors import InputError

torch = pytest.importorskip("torch")

from nestling.workloads.level_plan import STRATEGIES  # noqa: E402
from nestling.workloads.torch_export import ExportError, capture  # noqa: E402
from nestling.workloads.torch_levels import NestedMasks, nested_keep, recalibrate  # noqa: E402
from torch import nn  # noqa: E402
from torch.fx.experimental.optimization import fuse  # noqa: E402

DENSITIES = (0.5, 0.25, 0.1)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 1, 8, 8, generator=generator), torch.randint(0, 4, (16,), generator=generator)


def train(masks: NestedMasks, steps: int, *, after_step: Callable[[int], None] = lambda _: None) -> None:
    optimizer = torch.optim.AdamW(masks.model.parameters(), lr=0.01, weight_decay=0.1)
    for step in range(steps):
        x, labels = batch(step)
        optimizer.zero_grad()
        for share in masks.passes():
            (share * nn.functional.cross_entropy(masks.model(x), labels)).backward()
        optimizer.step()
        masks.step()
        after_step(step)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("allocation", ["global", "erk"])
def test_levels_are_nested_and_as_dense_as_asked(strategy: str, allocation: str) -> None:
    masks = NestedMasks(network(), DENSITIES, steps=30, strategy=strategy, allocation=allocation, interval=2)
    train(masks, 30)
    weights = [[v for v in state.values() if v.dim() > 1] for state in masks.states()]
    total = sum(w.numel() for w in weights[0])
    for density, level in zip(DENSITIES, weights, strict=True):
        assert sum(int((w != 0).sum()) for w in level) == round(density * total)
        assert all((w != 0).any() for w in level)
    for denser, sparser in pairwise(weights):
        assert all(((s == 0) | (s == d)).all() for d, s in zip(denser, sparser, strict=True))


def test_the_exporter_takes_the_levels_of_a_folded_model() -> None:
    masks = NestedMasks(fuse(network().eval()), DENSITIES, steps=6, interval=1)
    train(masks, 6)
    captured = capture(masks.plain(0), (batch()[0][:1],), levels=masks.states())
    assert captured.document["levels"] == 3
    kept = [
        int((keep > level).sum())
        for level in range(3)
        for keep in [torch.cat([value.flatten() for key, value in captured.tensors.items() if key.endswith(".keep")])]
    ]
    assert kept == [round(density * 614) for density in DENSITIES]
    assert masks.model(batch()[0]).shape == (16, 4)  # the model itself still works


def test_own_normalisations_do_not_fold_into_one_set_of_weights() -> None:
    masks = NestedMasks(network(), DENSITIES, steps=6, interval=1)
    train(masks, 6)
    with pytest.raises(ExportError, match="levels are not nested"):
        capture(masks.plain(0), (batch()[0][:1],), levels=masks.states())


def test_a_plain_copy_computes_what_the_model_does_at_that_level() -> None:
    masks = NestedMasks(network(), DENSITIES, steps=20)
    train(masks, 12)
    x = batch(99)[0]
    masks.model.eval()
    outputs = []
    for level in range(3):
        plain = masks.plain(level)
        masks.use(level)
        torch.testing.assert_close(plain(x), masks.model(x))
        assert not any("parametriz" in type(m).__name__.lower() for m in plain.modules())
        outputs.append(plain(x))
    assert not torch.allclose(outputs[0], outputs[2])


@pytest.mark.parametrize("layers", [None, ["0", "4"]])
def test_outward_never_changes_a_finished_level(layers: list[str] | None) -> None:
    """Under weight decay and momentum too: biases, normalisation and weights of the sparsest level stay bit for bit."""
    masks = NestedMasks(network(), DENSITIES, steps=45, strategy="outward", interval=2, layers=layers)
    finished = {}

    def remember(step: int) -> None:
        if step in (14, 29):
            level = 2 - step // 15
            finished[level] = masks.plain(level).state_dict()

    train(masks, 45, after_step=remember)
    assert set(finished) == {2, 1}
    for level, state in finished.items():
        after = masks.plain(level).state_dict()
        assert all(torch.equal(after[name], value) for name, value in state.items())
    assert not torch.equal(masks.plain(1).state_dict()["0.bias"], masks.plain(0).state_dict()["0.bias"])


def test_only_the_passes_levels_get_gradients() -> None:
    masks = NestedMasks(
        network(), DENSITIES, steps=10, keep={"8": torch.full((4, 32), 2, dtype=torch.uint8)}, layers=["8"]
    )
    masks.use(2)
    masks.model(batch()[0]).sum().backward()
    layer = masks.model[8]
    assert not layer.parametrizations.weight.original.grad.any()
    assert layer.parametrizations.bias.original0.grad is None
    assert (layer.parametrizations.bias.original2.grad == 16).all()


def test_switch_points_run_the_first_layers_denser() -> None:
    keep = {
        name: torch.ones_like(module.weight, dtype=torch.uint8)
        for name, module in network().named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    masks = NestedMasks(network(), (1.0, 0.5), steps=10, keep=keep)
    masks.use(1, denser_layers=2)
    assert [bool(masks.model[i].weight.any()) for i in (0, 4, 8)] == [True, True, False]
    with pytest.raises(InputError, match="levels are 0"):
        masks.use(0, denser_layers=1)


def test_recalibration_is_the_mean_over_batches_of_the_level() -> None:
    masks = NestedMasks(network(), DENSITIES, steps=20)
    train(masks, 10)
    before = [{k: v.clone() for k, v in norm.state_dict().items()} for norm in masks.model[1].norms]
    batches = [batch(seed)[0] for seed in range(3)]
    masks.recalibrate(2, batches)
    convolved = [masks.model[0](x) for x in batches]
    norm = masks.model[1].norms[2]
    torch.testing.assert_close(norm.running_mean, torch.stack([c.mean((0, 2, 3)) for c in convolved]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([c.var((0, 2, 3)) for c in convolved]).mean(0))
    assert norm.momentum == 0.1
    assert all(torch.equal(v, before[0][k]) for k, v in masks.model[1].norms[0].state_dict().items())
    with pytest.raises(InputError, match="at least one batch"):
        recalibrate(masks.model, [])


def test_ranking_ties_and_the_rule_against_empty_layers() -> None:
    keep = nested_keep({"a": torch.ones(2, 3), "b": torch.full((1, 4), 0.1)}, (0.5, 0.2))
    assert keep["a"].tolist() == [[2, 1, 1], [1, 0, 0]]
    assert keep["b"].tolist() == [[2, 0, 0, 0]]  # its best weight, smaller than all of a's
    with pytest.raises(InputError, match="fewer than the 2 layers"):
        nested_keep({"a": torch.ones(2, 3), "b": torch.ones(1, 4)}, (0.5, 0.1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"densities": (0.1, 0.5)}, "denser than level 0"),
        ({"layers": ["9"]}, "convolution or linear layer"),
        ({"strategy": "outward", "own_norms": False}, "outward"),
        ({"keep": {"8": torch.ones(4, 32, dtype=torch.uint8)}}, "has no masks"),
        ({"keep": {"8": torch.ones(4, 3, dtype=torch.uint8)}, "layers": ["8"]}, "must be uint8"),
        ({"allocation": "even"}, "unknown allocation"),
    ],
)
def test_mistakes(changes: dict, words: str) -> None:
    settings = {"densities": DENSITIES, "steps": 10} | changes
    with pytest.raises(InputError, match=words):
        NestedMasks(network(), settings.pop("densities"), **settings)


def test_a_model_is_masked_once_and_for_a_set_number_of_steps() -> None:
    masks = NestedMasks(network(), (0.5,), steps=1)
    with pytest.raises(InputError, match="parametrized already"):
        NestedMasks(masks.model, (0.5,), steps=1)
    train(masks, 1)
    with pytest.raises(InputError, match="steps=1"):
        masks.step()
