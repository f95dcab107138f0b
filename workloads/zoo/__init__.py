"""The built-in networks: 25 builders with their real parameters, and a decoder of any size.

``build("vit_b_16", image=160)`` returns a shape-only :class:`Network` at batch 1. To add a network, write a builder in a
module of this folder and give it an entry in that module's ``MODELS``.
"""

from __future__ import annotations

from ..errors import unknown_name
from ..network import Network
from . import attention, convolutional, decoder, dense, geometric, mobile, recurrent, residual
from .model import Model, Parameter

__all__ = ["DECODERS", "MODELS", "NETWORKS", "Model", "Parameter", "build"]

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
#: Networks beyond the reference tables, whose masks do not fit the memory of a small machine.
DECODERS: dict[str, Model] = decoder.MODELS
#: Everything that ``build`` knows.
NETWORKS: dict[str, Model] = {**MODELS, **convolutional.EXTRAS, **DECODERS}


def build(name: str, /, **parameters: object) -> Network:
    """A built-in network, shape-only, batch 1.

    Parameters
    ----------
    name : key of :data:`NETWORKS`.
    parameters : values that differ from the defaults; ``NETWORKS[name].parameters`` lists what there is.

    Raises
    ------
    InputError
        for an unknown model or parameter (nearest match), or a value outside its range.
    """
    if name not in NETWORKS:
        raise unknown_name("model", name, NETWORKS)
    model = NETWORKS[name]
    settings = model.settings(name, parameters)
    changed = [f"{key}={value}" for key, value in settings.items() if value != model.parameters[key].default]
    return Network(name, model.builder(**settings), source="; ".join([model.source, *changed]))
