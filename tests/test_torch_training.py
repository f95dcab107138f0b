"""The PyTorch side of training on toy data: graph, folding, masks, learning. Runs where PyTorch is installed."""

from __future__ import annotations

import numpy as np
import pytest
from nestling.workloads.errors import InputError
from nestling.workloads.layers import Layer, conv, linear
from nestling.workloads.network import INPUT
from nestling.workloads.schedule import Recipe

torch = pytest.importorskip("torch")

from nestling.workloads import torch_graph, torch_training  # noqa: E402

DENSITIES = (0.8, 0.4, 0.15)


def toy_layers() -> tuple[Layer, ...]:
    """A residual network for 8 x 8 images with every kind of layer that the bundled one has."""
    return (
        conv("c1", INPUT, C=1, H=8, K=6, R=3, padding=1, activation="relu"),
        conv("c2", "c1", C=6, H=8, K=8, R=3, stride=2, padding=1, activation="relu", relu_in=True),
        conv("c3", "c2", C=8, H=4, K=8, R=3, padding=1, relu_in=True),
        Layer(name="sum", op="add", C=8, H=4, W=4, K=8, P=4, Q=4, sources=("c3", "c2"), activation="relu"),
        Layer(name="gap", op="avgpool", C=8, H=4, W=4, K=8, R=4, S=4, stride=4, sources=("sum",)),
        linear("fc", "gap", features_in=8, features_out=3),
    )


def toy_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Stripes across (0), stripes down (1), chequered (2): classes that shifts and mirroring leave alone."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.uint8)
    rows, columns = np.indices((8, 8)) // 2 % 2
    patterns = np.stack([rows, columns, rows ^ columns])[labels]
    return np.clip(patterns * 120 + rng.integers(0, 60, (count, 8, 8)), 0, 255).astype(np.uint8), labels


def images(count: int = 512, seed: int = 0) -> torch_training.Images:
    return torch_training.Images.from_arrays(*toy_images(count, seed), scale=1 / 255)


def recipe(**changes: object) -> Recipe:
    return Recipe(**({"epochs": 2, "seed": 3, "peak_rate": 0.01, "batch": 32, "mask_interval": 2} | changes))


def random_start(seed: int = 0):
    return torch_graph.initial_weights(toy_layers(), torch.Generator().manual_seed(seed))


def measured(weights, biases) -> float:
    pixels, labels = toy_images(300, seed=99)
    x = torch_graph.to_images(pixels, scale=1 / 255)
    return torch_graph.accuracy(
        toy_layers(), x, torch.from_numpy(labels.astype(np.int64)), weights=weights, biases=biases, batch=64
    )


def plain_forward(x: np.ndarray, weights: dict, biases: dict) -> np.ndarray:
    """Oracle: the toy network for one image (1, 8, 8), written out with loops in NumPy."""

    def convolve(x, name, stride):
        w, padded = weights[name], np.pad(x, ((0, 0), (1, 1), (1, 1)))
        size = x.shape[1] // stride
        out = np.zeros((len(w), size, size))
        for k, p, q in np.ndindex(out.shape):
            window = padded[:, p * stride : p * stride + 3, q * stride : q * stride + 3]
            out[k, p, q] = (window * w[k]).sum() + biases[name][k]
        return out

    c2 = np.maximum(convolve(np.maximum(convolve(x, "c1", 1), 0), "c2", 2), 0)
    pooled = np.maximum(convolve(c2, "c3", 1) + c2, 0).mean(axis=(1, 2))
    return weights["fc"] @ pooled + biases["fc"]


def test_forward_equals_plain_loops():
    weights, biases = random_start()
    biases = {n: b + 0.1 * torch.arange(len(b)) for n, b in biases.items()}
    pixels, _ = toy_images(3, seed=1)
    x = torch_graph.to_images(pixels, scale=1 / 255)
    found = torch_graph.forward(toy_layers(), x, weights=weights, biases=biases).numpy()
    arrays = [{n: t.numpy().astype(float) for n, t in part.items()} for part in (weights, biases)]
    for row, image in zip(found, pixels, strict=True):
        np.testing.assert_allclose(row, plain_forward(image[None] / 255.0, *arrays), atol=1e-5)


def test_folded_network_equals_the_normalised_one():
    weights, biases = random_start(1)
    norms = torch_graph.initial_norms(toy_layers())
    generator = torch.Generator().manual_seed(2)
    for name, scale in norms.scale.items():
        for tensor in (scale, norms.shift[name], norms.mean[name]):
            tensor.copy_(torch.randn(scale.shape, generator=generator))
        norms.variance[name].copy_(torch.rand(scale.shape, generator=generator) + 0.1)
        biases[name] = torch.randn(scale.shape, generator=generator)
    x = torch_graph.to_images(toy_images(20, seed=4)[0], scale=1 / 255)
    unfolded = torch_graph.forward(toy_layers(), x, weights=weights, biases=biases, norms=norms)
    folded_weights, folded_biases = torch_graph.fold_norms(weights, biases, norms)
    folded = torch_graph.forward(toy_layers(), x, weights=folded_weights, biases=folded_biases)
    plain = torch_graph.forward(toy_layers(), x, weights=weights, biases=biases)
    assert (folded - unfolded).abs().max() < 1e-4
    assert (plain - unfolded).abs().max() > 1e-2


def test_dense_training_learns_and_is_reproducible():
    before = measured(*random_start(3))
    told: list[torch_training.Progress] = []
    settings = recipe(epochs=6, peak_rate=0.05)
    trained = torch_training.train_dense(toy_layers(), images(), settings, report=told.append)
    after = measured(*trained)
    assert before < 0.6
    assert after > 0.95
    assert [p.epoch for p in told] == [1, 2, 3, 4, 5, 6]
    assert told[-1].loss < 0.5 * told[0].loss
    again = torch_training.train_dense(toy_layers(), images(), settings)
    assert all(torch.equal(trained[0][n], again[0][n]) for n in trained[0])


@pytest.mark.parametrize("switch_points", [False, True])
def test_masks_are_nested_in_every_step_and_frozen_after_the_ramp(monkeypatch, switch_points):
    seen: list[tuple[float, dict]] = []
    original = torch_training.NestedTrainer.update_masks

    def spy(self, progress):
        current = original(self, progress)
        seen.append((progress, {n: k.copy() for n, k in self.keep.items()}))
        for level in range(1, len(DENSITIES)):
            denser, _ = self.level_tensors(level - 1)
            sparser, _ = self.level_tensors(level)
            for name in sparser:
                kept = sparser[name] != 0
                assert torch.equal(sparser[name][kept], denser[name][kept])
        return current

    monkeypatch.setattr(torch_training.NestedTrainer, "update_masks", spy)
    trainer = torch_training.NestedTrainer(
        toy_layers(), random_start(), densities=DENSITIES, recipe=recipe(switch_points=switch_points)
    )
    trainer.train(images())
    network = trainer.network("toy")
    progress = [p for p, _ in seen]
    assert progress == sorted(progress)
    assert 0.7 <= progress[-1] < 0.8, "no update after the end of the ramp"
    final = seen[-1][1]
    assert all(np.array_equal(final[n], network.weights[n].keep) for n in final)
    total = sum(k.size for k in final.values())
    expected = [round(d * total) for d in DENSITIES]
    assert [sum(int((k > level).sum()) for k in final.values()) for level in range(3)] == expected
    kept = [sum(int((k > 2).sum()) for k in keep.values()) for _, keep in seen]
    assert kept[0] == total
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) > 5


def test_nested_training_beats_thresholding_at_the_sparsest_level():
    start = torch_training.train_dense(toy_layers(), images(), recipe(epochs=6, peak_rate=0.05))
    trainer = torch_training.NestedTrainer(toy_layers(), start, densities=DENSITIES, recipe=recipe(epochs=6))
    trainer.train(images())
    network = trainer.network("toy", source="test")
    pixels, labels = toy_images(300, seed=99)
    x, y = torch_graph.to_images(pixels, scale=1 / 255), torch.from_numpy(labels.astype(np.int64))
    nested = torch_training.level_accuracies(network, x, y)
    cut = torch_training.threshold_afterwards(toy_layers(), start, DENSITIES)
    thresholded = torch_training.level_accuracies(cut, x, y)
    assert min(nested) > 0.9
    switches = torch_training.switch_accuracies(network, x, y, denser=0, sparser=2)
    by_hand = {"c1": 0, "c2": 0, "c3": 2, "fc": 2}
    assert len(switches) == 3
    assert switches[1] == torch_training.mixed_accuracy(network, x, y, levels=by_hand)
    assert torch_training.switch_accuracies(network, x, y, denser=1, sparser=1) == (nested[1],) * 3
    assert nested[2] > thresholded[2] + 0.1
    assert network.densities.tolist() == cut.densities.tolist()
    assert all((w.values[w.keep == 0] == 0).all() for w in network.weights.values())


def test_a_start_under_fixed_masks_never_leaves_them():
    rng = np.random.default_rng(5)
    shapes = {x.name: x.weight_shape for x in toy_layers() if x.has_weights}
    keep = {name: (rng.random(shape) < 0.5).astype(np.uint8) for name, shape in shapes.items()}
    settings = recipe(epochs=6, peak_rate=0.05)
    weights, biases = torch_training.train_dense(toy_layers(), images(), settings, keep=keep)
    for name, mask in keep.items():
        np.testing.assert_array_equal(weights[name].numpy() != 0, mask == 1)
    assert measured(weights, biases) > 0.8
    trainer = torch_training.NestedTrainer(
        toy_layers(), (weights, biases), densities=(0.5,), recipe=recipe(epochs=1), keep=keep
    )
    trainer.train(images(64))
    assert all(np.array_equal(trainer.network("n").weights[name].keep, mask) for name, mask in keep.items())


def test_the_start_is_left_untouched():
    start = random_start()
    before = {n: w.clone() for n, w in start[0].items()}
    trainer = torch_training.NestedTrainer(toy_layers(), start, densities=(0.5,), recipe=recipe(epochs=1))
    trainer.train(images(64))
    assert all(torch.equal(start[0][n], before[n]) for n in before)
    assert any(not torch.equal(trainer.weights[n], before[n]) for n in before)


def test_pruned_weights_receive_no_gradient():
    trainer = torch_training.NestedTrainer(toy_layers(), random_start(), densities=(0.5, 0.2), recipe=recipe())
    trainer.update_masks(1.0)
    x, y = images().batch(torch.arange(32), torch.Generator().manual_seed(0))
    trainer._accumulate(x, y, switch=None)
    for name, weight in trainer.weights.items():
        pruned = torch.from_numpy(trainer.keep[name] == 0)
        assert (weight.grad[pruned] == 0).all()
    assert any(w.grad.abs().sum() > 0 for w in trainer.weights.values())


def test_a_switch_point_takes_the_first_layers_from_the_denser_level():
    trainer = torch_training.NestedTrainer(toy_layers(), random_start(), densities=DENSITIES, recipe=recipe())
    trainer.update_masks(1.0)
    mixed, _ = trainer.level_tensors(2, denser_layers=2)
    denser, _ = trainer.level_tensors(1)
    sparser, _ = trainer.level_tensors(2)
    assert all(torch.equal(mixed[n], denser[n]) for n in ("c1", "c2"))
    assert all(torch.equal(mixed[n], sparser[n]) for n in ("c3", "fc"))
    assert not torch.equal(denser["c2"], sparser["c2"])


def test_augmentation_shifts_and_mirrors_only():
    pixels = np.zeros((200, 8, 8), np.uint8)
    pixels[:, 4, 3] = 255
    data = torch_training.Images.from_arrays(pixels, np.zeros(200, np.uint8), scale=1 / 255)
    x, labels = data.batch(torch.arange(200), torch.Generator().manual_seed(0))
    assert x.shape == (200, 1, 8, 8)
    assert labels.tolist() == [0] * 200
    assert (x.sum(dim=(1, 2, 3)) == 1).all()
    rows, columns = (set(v.tolist()) for v in torch.nonzero(x[:, 0])[:, 1:].unbind(1))
    assert rows == {2, 3, 4, 5, 6}
    # Column 3 shifted by -2..2, or its mirror image 4 shifted likewise.
    assert columns == {1, 2, 3, 4, 5, 6}


def test_unsupported_layers_are_all_named():
    layers = (
        Layer(name="pool", op="maxpool", sources=(INPUT,)),
        linear("fc", "pool", features_in=1, features_out=1, activation="tanh"),
    )
    with pytest.raises(InputError) as caught:
        torch_graph.check_trainable(layers)
    assert len(caught.value.problems) == 2
    assert "layer 'pool': unknown trainable operator 'maxpool'" in caught.value.problems[0]
    assert "layer 'fc': unknown trainable activation 'tanh'" in caught.value.problems[1]


def test_images_and_labels_must_pair_up():
    with pytest.raises(InputError, match="found 2 and 3"):
        torch_training.Images.from_arrays(np.zeros((2, 8, 8), np.uint8), np.zeros(3, np.uint8), scale=1.0)
