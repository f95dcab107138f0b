"""Retraining that alternates epochs with the projection onto SmartDeal form."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nestling.workloads.bundled import FASHION_SCALE, load_bundled  # noqa: E402
from nestling.workloads.schedule import Recipe  # noqa: E402
from nestling.workloads.smartdeal.nested import SmartDealOptions  # noqa: E402
from nestling.workloads.smartdeal.retraining import retrain  # noqa: E402
from nestling.workloads.torch_training import Images  # noqa: E402


def test_masks_stay_and_the_result_is_the_last_projection():
    network, pixels, labels = load_bundled()
    images = Images.from_arrays(pixels[:96], labels[:96], scale=FASHION_SCALE)
    recipe = Recipe(epochs=2, seed=1, peak_rate=1e-4, batch=48)
    done = retrain(network, images, recipe=recipe, options=SmartDealOptions(unit="coefficient"))
    assert done.network.levels == network.levels
    for name, basis in done.bases.items():
        trained = basis.slicing.cut(network.weights[name].keep)
        for level in range(network.levels):
            assert not (basis.kept(level) & (trained <= level)).any()
        before, after = network.weights[name].dense(0), basis.dense(0)
        assert 0 < np.linalg.norm(after - before) < np.linalg.norm(before)
