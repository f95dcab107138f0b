"""The built-in networks: 25 builders with their real parameters.

``build("vit_b_16", image=160)`` returns a shape-only :class:`Network` at batch 1. To add a network, write a builder in a
module of this folder and give it an entry in that module's ``MODELS``.
"""

from __future__ import annotations

from ..errors import unknown_name
from ..network import Network
from . import attention, convolutional, dense, geometric, mobile, recurrent, residual
from .model import Model, Parameter

__all__ = ["MODELS", "Model", "Parameter", "build"]

#: Name -> network. With default parameters each equals its reference table row by row (``tests/test_zoo.py``).
MODELS: dict[str, Model] = {
    **convolutional.MODELS,
    **residual.MODELS,
    **dense.MODELS,
    **mobile.MODELS,
    **attention.MODELS,
    **recurrent.MODELS,
    **geometric.MODELS,
}


def build(name: str, /, **parameters: object) -> Network:
    """A built-in network, shape-only, batch 1.

    Parameters
    ----------
    name : key of :data:`MODELS`.
    parameters : values that differ from the defaults; ``MODELS[name].parameters`` lists what there is.

    Raises
    ------
    InputError
        for an unknown model or parameter (nearest match), or a value outside its range.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    model = MODELS[name]
    settings = model.settings(name, parameters)
    changed = [f"{key}={value}" for key, value in settings.items() if value != model.parameters[key].default]
    return Network(name, model.builder(**settings), source="; ".join([model.source, *changed]))
