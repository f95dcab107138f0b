"""Writes plain.json and plain.safetensors; needs torch: ``python -m tests.data.exported.make_fixtures``."""

from __future__ import annotations

from pathlib import Path

import torch
from nestling.workloads.torch_export import export

from ...torch_models import Plain

DENSITIES = (0.75, 0.5, 0.25)
IMAGES = 6


def nested_states(model: torch.nn.Module, densities: tuple[float, ...]) -> list[dict[str, torch.Tensor]]:
    """One state dict per density: in each weight of two or more dimensions the largest magnitudes stay."""
    states = []
    for density in densities:
        state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        for value in state.values():
            if value.dim() > 1:
                kept = value.abs().flatten().argsort(descending=True, stable=True)[: round(density * value.numel())]
                mask = torch.zeros(value.numel(), dtype=torch.bool)
                mask[kept] = True
                value.mul_(mask.reshape(value.shape))
        states.append(state)
    return states


def main() -> None:
    torch.manual_seed(0)
    model = Plain()
    with torch.no_grad():
        model.norm1.running_mean.normal_()
        model.norm1.running_var.uniform_(0.5, 2.0)
        model.norm1.bias.normal_()
    images = torch.rand(IMAGES, 1, 10, 10) * (torch.rand(IMAGES, 1, 10, 10) < 0.7)
    states = nested_states(model, DENSITIES)
    model.load_state_dict(states[0])
    labels = model.eval()(images).argmax(1)
    path = Path(__file__).parent / "plain"
    export(model, (images[:1],), path, levels=states, calibration=images, labels=labels)


if __name__ == "__main__":
    main()
