"""Short retraining: epochs of nested training alternate with the projection of the weights onto SmartDeal form.

Zhao et al., "SmartExchange", ISCA 2020, section on re-training: one epoch of normal training, then the algorithm applied to
every layer. Here an epoch trains all levels jointly on their fixed masks. Needs PyTorch (extra ``train``).
"""

from __future__ import annotations

import numpy as np
import torch

from ..network import Network
from ..schedule import Recipe, Report
from ..torch_graph import Tensors, channels_last
from ..torch_training import Images, NestedTrainer
from .nested import SmartDealNetwork, SmartDealOptions, decompose_network


def retrain(
    network: Network,
    images: Images,
    *,
    recipe: Recipe,
    options: SmartDealOptions | None = None,
    report: Report | None = None,
) -> SmartDealNetwork:
    """Retrain ``network`` at its own levels for ``recipe.epochs`` epochs, projected after each; its SmartDeal form.

    Masks stay as they are; the last projection is the returned form, so that every level is measured as it would be stored.
    """
    weights = {name: channels_last(torch.from_numpy(w.dense(0))) for name, w in network.weights.items()}
    # One bias per level: the trainer repeats a single one, so each level's own values are put back afterwards.
    first = {name: torch.from_numpy(bias[0].copy()) for name, bias in network.biases.items()}
    trainer = NestedTrainer(
        network.layers,
        (weights, first),
        densities=[float(d) for d in network.densities],
        recipe=recipe,
        keep={name: w.keep for name, w in network.weights.items()},
    )
    with torch.no_grad():
        for name, bias in network.biases.items():
            trainer.biases[name].copy_(torch.from_numpy(bias))

    def project() -> None:
        done = decompose_network(trainer.network(network.name), options=options)
        _write(trainer.weights, {name: basis.dense(0) for name, basis in done.bases.items()})

    project()
    trainer.train(images, stage="smartdeal", report=report, after_epoch=project)
    return decompose_network(trainer.network(network.name, source=network.source), options=options)


def _write(weights: Tensors, values: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            weights[name].copy_(torch.from_numpy(value))
