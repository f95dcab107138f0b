"""The PyTorch exporter under PyTorch: products against its own counter, outputs, levels, and what it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from nestling.sim.executor.executor import Executor
from nestling.workloads.errors import InputError
from nestling.workloads.exported import load_exported

torch = pytest.importorskip("torch")
from nestling.workloads import from_torch  # noqa: E402
from nestling.workloads.torch_export import export  # noqa: E402
from nestling.workloads.torch_export.levels import plain_copy  # noqa: E402
from nestling.workloads.torch_import import capture_torch  # noqa: E402
from nestling.workloads.torch_single_file import exporter_source  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.nn.utils import parametrize, prune  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from . import torch_models  # noqa: E402
from .data.exported.make_fixtures import nested_states  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def encoder() -> nn.Module:
    """Two transformer layers, 16 wide, 4 heads."""
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)


def with_statistics(model: nn.Module) -> nn.Module:
    """Random batch-norm statistics, so that folding changes something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


class Decoder(nn.Module):
    """Embedding, learned positions, causal attention, group of norms, output weights shared with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(50, 16), nn.Parameter(torch.randn(1, 12, 16))
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm, self.groups = nn.LayerNorm(16), nn.GroupNorm(3, 12)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids) + self.positions
        parts = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (part.view(1, 12, 4, 4).transpose(1, 2) for part in parts)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(self.groups(x + self.out(y.transpose(1, 2).reshape(1, 12, 16))))


def test_tokens_positions_and_shared_weights() -> None:
    model = Decoder()
    network = from_torch(model, torch.randint(0, 50, (1, 12)))
    assert network.params == sum(p.numel() for p in model.parameters())
    assert network.macs == 12 * 16 * (48 + 16 + 50) + 2 * 4 * 12 * 12 * 4
    ops = [layer.op for layer in network.layers if layer.op != "rearrange"]
    assert ops == [
        "embed", "elementwise", "layernorm", "linear", "matmul", "softmax", "matmul", "linear", "add", "norm", "linear",
    ]  # fmt: skip


MODELS = [
    (torch_models.Residual, (1, 3, 33, 33)),
    (torch_models.Plain, (1, 1, 12, 12)),
    (torch_models.Products, (1, 7, 8)),
    (torch_models.Odd, (1, 3, 20)),
    (encoder, (1, 11, 16)),
]


@pytest.mark.parametrize(("build", "shape"), MODELS)
def test_products_are_those_that_torch_counts(build: type, shape: tuple[int, ...]) -> None:
    model, example = build().eval(), torch.randn(shape)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into fused operators
    try:
        spelled_out = sdpa_kernel(SDPBackend.MATH)
        with FlopCounterMode(display=False) as counter, torch.no_grad(), spelled_out:
            model(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    network = from_torch(model, example)
    assert 2 * network.macs == counter.get_total_flops()
    assert network.params == sum(p.numel() for p in model.parameters())


def test_recurrences_run_once_per_step() -> None:
    network = from_torch(torch_models.Recurrent(), torch.randn(1, 9, 8))
    lstm = 2 * 9 * 24 * (8 + 6) + 2 * 9 * 24 * (12 + 6)
    assert network.macs == lstm + 9 * 15 * (12 + 5) + 9 * 4 * (5 + 4) + 4 * 3
    by_name = {layer.name: layer for layer in network.layers}
    assert (by_name["lstm.l1_reverse.hh"].op, by_name["lstm.l1_reverse.hh"].repeat) == ("lstm_hh", 9)
    assert by_name["gru.l0.ih"].sources == ("lstm.l1_both",)


@pytest.mark.parametrize(("build", "shape"), MODELS[:2])
def test_the_executor_computes_what_torch_computes(build: type, shape: tuple[int, ...]) -> None:
    model = with_statistics(build())
    states = nested_states(model, (0.8, 0.4, 0.1))
    images = torch.relu(torch.randn(5, *shape[1:]))
    found = capture_torch(model, images[:1], levels=states, calibration=images, labels=torch.zeros(5))
    executor = Executor(found.network)
    for level, state in enumerate(states):
        model.load_state_dict(state)
        expected = model(images).detach().numpy()
        np.testing.assert_allclose(executor.run(images.numpy(), level), expected, rtol=1e-4, atol=1e-5)
        assert found.outputs is not None
        np.testing.assert_allclose(found.outputs[level], expected, rtol=1e-4, atol=1e-5)
    for name, counts in executor.capture(images.numpy(), 0).items():
        assert found.activations[name].density == pytest.approx(counts.density, abs=1e-12)
        np.testing.assert_array_equal(found.activations[name].tap_nonzeros, counts.tap_nonzeros)


# --- levels ----------------------------------------------------------------------------------------------------------


def test_masks_of_torch_prune_become_the_level_and_the_model_stays_as_it_was() -> None:
    model = torch_models.Plain()
    for module in (model.conv2, model.fc):
        prune.l1_unstructured(module, "weight", 0.5)
    network = from_torch(model, torch.randn(1, 1, 10, 10))
    np.testing.assert_array_equal(network.weights["conv2"].mask(0), model.conv2.weight_mask.numpy() == 1)
    np.testing.assert_array_equal(network.weights["fc"].values, model.fc.weight.detach().numpy())
    assert network.weights["conv1"].nonzeros.tolist() == [36]
    assert model.training
    assert prune.is_pruned(model)
    levels = from_torch(model, torch.randn(1, 1, 10, 10), levels=[model.state_dict()])
    np.testing.assert_array_equal(levels.weights["fc"].keep, network.weights["fc"].keep)


def test_a_parametrized_model_stays_usable() -> None:
    class Half(torch.nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * 0.5

    model = torch.nn.Linear(4, 3)
    torch.nn.utils.parametrize.register_parametrization(model, "weight", Half())
    before = model(torch.ones(1, 4))
    plain = plain_copy(model)
    assert torch.equal(plain(torch.ones(1, 4)), before)
    assert torch.equal(model(torch.ones(1, 4)), before)  # the user's own model still works


def test_two_of_four_through_a_parametrization_and_sparse_tensors() -> None:
    class TwoOfFour(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            blocks = weight.reshape(-1, 4)
            kept = torch.zeros_like(blocks).scatter(1, blocks.abs().topk(2).indices, 1.0)
            return (blocks * kept).reshape(weight.shape)

    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    parametrize.register_parametrization(model[0], "weight", TwoOfFour())
    mask = model[2].weight.detach() > 0
    model[2].weight = nn.Parameter((model[2].weight.detach() * mask).to_sparse(), requires_grad=False)
    network = from_torch(model, torch.randn(1, 16))
    assert (network.weights["0"].mask(0).reshape(-1, 4).sum(1) == 2).all()
    np.testing.assert_array_equal(network.weights["2"].mask(0), mask.numpy())


def test_levels_that_are_not_nested_name_tensor_and_index() -> None:
    model = torch_models.Plain()
    states = nested_states(model, (0.5, 0.25))
    gone = tuple((states[0]["conv2.weight"] == 0).nonzero()[3].tolist())
    states[1]["conv2.weight"][gone] = 1.0
    first = f"'conv2.weight' \\({gone[0]}, {gone[1]}, {gone[2]}, {gone[3]}\\) is 1.0 at level 1, but 0.0 at level 0"
    with pytest.raises(InputError, match=first):
        from_torch(model, torch.randn(1, 1, 10, 10), levels=states)
    del states[1]["fc.bias"]
    with pytest.raises(InputError, match=r"do not have the same tensors; the first is 'fc\.bias'"):
        from_torch(model, torch.randn(1, 1, 10, 10), levels=states)


def test_levels_of_another_model_are_refused() -> None:
    model, image = torch_models.Plain(), torch.randn(1, 1, 10, 10)
    renamed = {f"module.{name}": value for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"'conv1\.weight' at level 0 is missing; the model's is \(4, 1, 3, 3\)"):
        from_torch(model, image, levels=[renamed])
    other = {name: value[:1] if name == "fc.weight" else value for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"'fc\.weight' at level 0 is \(1, 24\); the model's is \(3, 24\)"):
        from_torch(model, image, levels=[other])


def test_batch_norms_that_differ_by_level_break_nesting_once_folded() -> None:
    model = torch_models.Plain()
    states = nested_states(model, (0.5, 0.5))
    states[1]["norm1.weight"] = states[1]["norm1.weight"] * 2
    with pytest.raises(InputError, match=r"not nested: 'conv1\.weight'"):
        from_torch(model, torch.randn(1, 1, 10, 10), levels=states)


# --- what is not modelled, and what is refused -----------------------------------------------------------------------


def test_operators_that_nobody_knows_are_listed_with_their_bytes() -> None:
    @torch.library.custom_op("nestling_tests::swirl", mutates_args=())
    def swirl(x: torch.Tensor) -> torch.Tensor:
        return x.flip(-1)

    @swirl.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(swirl(self.fc(x)), 1)

    found = capture_torch(Model(), torch.randn(1, 8))
    (unknown,) = found.unmodelled
    assert (unknown.operator, unknown.bytes) == ("nestling_tests::swirl", 2 * 8 * 4)
    total = (8 + 64 + 8 + 8) + 16 + 16  # elements: linear layer, swirl, softmax
    assert unknown.share == pytest.approx(16 / total)
    assert [layer.op for layer in found.network.layers] == ["linear", "elementwise", "softmax"]
    with pytest.raises(InputError, match="operator 'elementwise' is not supported"):
        Executor(found.network)


def test_control_flow_on_data_is_refused_in_torchs_words_on_one_line() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(InputError, match=r"torch\.export cannot trace the model: .*data-dependent") as caught:
        from_torch(Model(), torch.randn(1, 8))
    (problem,) = caught.value.problems
    assert "\n" not in problem


def test_parameters_without_values_are_refused() -> None:
    with torch.device("meta"):
        model = torch_models.Plain()
    with pytest.raises(InputError, match="have no values"):
        from_torch(model, torch.randn(1, 1, 10, 10))


def test_a_batch_is_refused() -> None:
    with pytest.raises(InputError, match="batch of 4; give one input"):
        from_torch(torch_models.Plain(), torch.randn(4, 1, 10, 10))


def test_a_shared_module_appears_once_per_use() -> None:
    layer = nn.Linear(6, 6)
    network = from_torch(nn.Sequential(layer, nn.Tanh(), layer), torch.randn(1, 6))
    first, second = network.layers
    assert second.name == f"{first.name}@2"
    assert second.notes == f"parameters of '{first.name}', counted there"
    assert (first.activation, second.activation) == ("tanh", "none")
    assert (network.macs, network.params) == (2 * 36, 36 + 6)


def test_activations_of_tensors_with_several_readers_stand_alone() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return torch.relu(y) + y

    model, image = Model(), torch.randn(1, 2, 5, 5)
    network = from_torch(model, image)
    assert [(x.op, x.activation) for x in network.layers] == [("conv", "none"), ("add", "relu"), ("add", "none")]
    np.testing.assert_allclose(
        Executor(network).run(image.numpy(), 0)[0], model(image).detach().numpy().reshape(-1), rtol=1e-4, atol=1e-6
    )


# --- files and the stand-alone exporter ------------------------------------------------------------------------------


def test_the_stand_alone_file_writes_the_same_pair(tmp_path: Path) -> None:
    (tmp_path / "nestling_export.py").write_text(exporter_source(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("nestling_export", tmp_path / "nestling_export.py")
    assert spec is not None
    assert spec.loader is not None
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    model, images = with_statistics(torch_models.Plain()), torch.randn(3, 1, 10, 10)
    for name, write in (("a", export), ("b", alone.export)):
        write(model, (images[:1],), tmp_path / name / "net.json", calibration=images, labels=torch.tensor([1, 2, 3]))
    for file in ("net.json", "net.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    found = load_exported(tmp_path / "a" / "net.json")
    assert found.labels is not None
    assert found.labels.tolist() == [1, 2, 3]
    assert found.network.name == "net"


def test_a_plain_copy_leaves_the_original_alone() -> None:
    model = torch_models.Plain()
    prune.random_unstructured(model.fc, "weight", 0.3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = plain_copy(model)
    assert "fc.weight" in plain.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
