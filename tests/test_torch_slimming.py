"""Network slimming: ranking, ties, residual sums, and that the narrowed model computes what the masked one does."""

from __future__ import annotations

from itertools import pairwise

import pytest
from nestling.workloads.errors import InputError

torch = pytest.importorskip("torch")

from nestling.workloads import from_torch  # noqa: E402
from nestling.workloads.torch_levels import add_l1_subgradient, masked_channels, narrowed, slim_channels  # noqa: E402
from nestling.workloads.torch_levels.channel_groups import channel_groups  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402


class Residual(nn.Module):
    """Identity and projected sums, a depthwise convolution, pooling, a flattened image before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.norm1 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv2, self.norm2 = nn.Conv2d(12, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise, self.norm3 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.down, self.norm4 = nn.Conv2d(8, 10, 3, stride=2, padding=1), nn.BatchNorm2d(10)
        self.short, self.norm5 = nn.Conv2d(8, 10, 1, stride=2), nn.BatchNorm2d(10)
        self.fc1, self.norm6, self.fc2 = nn.Linear(40, 9), nn.BatchNorm1d(9), nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm0(self.stem(x)))
        x = functional.relu(self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x))))) + x)
        y = torch.relu(self.norm3(self.depthwise(x)))
        x = functional.max_pool2d(functional.silu(self.norm4(self.down(y)) + self.norm5(self.short(x))), 2)
        return self.fc2(functional.relu(self.norm6(self.fc1(torch.flatten(x, 1)))))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    made = Residual()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return made.eval()


def images() -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_groups_of_a_residual_network(model: nn.Module) -> None:
    groups = [g for g in channel_groups(model) if not g.fixed]
    assert [g.writers for g in groups] == [["stem", "conv2"], ["conv1"], ["down", "short"], ["fc1"]]
    stream = groups[0]
    assert (sorted(stream.readers), stream.depthwise) == (["conv1", "down", "short"], ["depthwise"])
    assert stream.norms == ["norm0", "norm2", "norm3"]
    assert [g.fixed for g in channel_groups(model) if g.fixed] == ["the network's output"]


@pytest.mark.parametrize("densities", [(0.75, 0.5, 0.2), (1.0, 0.12)])
def test_narrowed_equals_masked(model: nn.Module, densities: tuple[float, ...]) -> None:
    slim = slim_channels(model, densities)
    x = images()
    with torch.no_grad():
        for level, density in enumerate(densities):
            small = narrowed(model, slim, level)
            assert sum(slim.widths(level)) == round(density * 39)
            assert min(slim.widths(level)) >= 1
            expected = masked_channels(model, slim, level)(x)
            torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
            assert density == 1.0 or not torch.allclose(expected, model(x), atol=1e-3)


def test_macs_of_the_narrowed_model(model: nn.Module) -> None:
    slim = slim_channels(model, (0.5,))
    stream, inner, sums, hidden = slim.widths(0)
    macs = 64 * (9 * (3 * stream + stream * inner + inner * stream + stream)) + 16 * (9 * stream * sums + stream * sums)
    macs += 4 * sums * hidden + hidden * 4
    assert from_torch(narrowed(model, slim, 0), (images()[:1],)).macs == macs


def test_widths_are_nested_by_scale_order(model: nn.Module) -> None:
    slim = slim_channels(model, (0.75, 0.5, 0.2))
    conv1 = next(i for i, group in enumerate(slim.groups) if group.writers == ["conv1"])
    scale = model.norm1.weight.detach().abs()
    for level in range(3):
        kept = slim.keep[conv1] > level
        assert kept.all() or scale[kept].min() >= scale[~kept].max()
    for denser, sparser in pairwise(range(3)):
        assert all(not ((keep > sparser) & ~(keep > denser)).any() for keep in slim.keep)


def test_equal_scales_are_cut_exactly_and_no_layer_disappears(model: nn.Module) -> None:
    """The reference removes everything at the threshold, and whole layers with it."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    nn.init.constant_(model.norm1.weight, 1e-6)
    slim = slim_channels(model, (0.5, 0.11))
    assert [sum(slim.widths(level)) for level in (0, 1)] == [20, 4]
    assert slim.widths(1) == [1, 1, 1, 1]
    with pytest.raises(InputError, match="fewer than the 4 layers"):
        slim_channels(model, (0.05,))


def test_l1_subgradient(model: nn.Module) -> None:
    with torch.no_grad():
        model.norm0.weight[:2] = 0.0
    model(images()).sum().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    add_l1_subgradient(model, 0.25)
    for name, parameter in model.named_parameters():
        is_scale = name.startswith("norm") and name.endswith("weight")
        added = 0.25 * parameter.detach().sign() if is_scale else torch.zeros_like(parameter)
        torch.testing.assert_close(parameter.grad, before[name] + added)


class PreActivation(nn.Module):
    """Normalised where it is read: the stream keeps its width, the inner convolution does not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.conv1, self.norm2, self.conv2 = nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5), nn.Conv2d(5, 6, 1)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(x))))))
        return self.fc(x.mean((2, 3)))


def test_a_preactivation_stream_keeps_its_width() -> None:
    torch.manual_seed(0)
    model = PreActivation().eval()
    nn.init.normal_(model.norm2.weight)
    nn.init.normal_(model.norm2.bias)
    slim = slim_channels(model, (0.4,))
    assert [group.writers for group in slim.groups] == [["conv1"]]
    small = narrowed(model, slim, 0)
    assert (small.conv1.out_channels, small.conv2.in_channels, small.stem.out_channels) == (2, 2, 6)
    with torch.no_grad():
        torch.testing.assert_close(small(images()), masked_channels(model, slim, 0)(images()), rtol=0, atol=1e-6)


class Joined(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        if self.how == "cat":
            return torch.cat([x, x], 1)
        if self.how == "sigmoid":
            return torch.sigmoid(x)
        if self.how == "branch":
            return x if x.sum() > 0 else -x
        return torch.flatten(x)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cat", "'cat'"), ("sigmoid", "'sigmoid'"), ("branch", "cannot be traced"), ("flatten", "flattens from dimension 0"),
    ],
)  # fmt: skip
def test_models_whose_channels_cannot_be_followed(how: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        slim_channels(Joined(how), (0.5,))


def test_nothing_to_remove() -> None:
    with pytest.raises(InputError, match="no removable channels"):
        slim_channels(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (0.5,))
