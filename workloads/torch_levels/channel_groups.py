"""Which channels of a PyTorch model belong together: shape propagation through the traced graph.

A group is one channel axis: everything that writes it, normalises it and reads it. A residual sum makes the axes it adds one.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from ..errors import InputError
from .parametrizations import NORMS, PRUNABLE

#: Keep a channel that is zero everywhere at zero, channel by channel.
_ZERO_KEEPING_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Tanh, nn.Identity, nn.Dropout, nn.Dropout2d,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
_ZERO_KEEPING = frozenset({
    torch.relu, functional.relu, functional.relu6, functional.leaky_relu, functional.silu, functional.gelu,
    functional.hardswish, torch.tanh, functional.dropout, functional.max_pool2d, functional.avg_pool2d,
    functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d, "relu", "relu_", "tanh", "contiguous",
})  # fmt: skip
_SUMS = frozenset({operator.add, operator.iadd, torch.add, "add", "add_"})
_FLATTENS = frozenset({torch.flatten, "flatten"})


@dataclass(eq=False)
class ChannelGroup:
    """One channel axis.

    ``writers``: convolutions and linear layers whose outputs it is; ``depthwise``: convolutions with one filter per channel;
    ``norms``: batch normalisations; ``readers``: layers whose inputs it is. All by module name. ``fixed``: why no channel can
    be removed, or "".
    """

    channels: int
    writers: list[str] = field(default_factory=list)
    depthwise: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)
    fixed: str = ""

    def absorb(self, other: ChannelGroup) -> None:
        for name in ("writers", "depthwise", "norms", "readers"):
            getattr(self, name).extend(getattr(other, name))
        self.fixed = self.fixed or other.fixed


@dataclass(frozen=True)
class _Flow:
    """What a node's output carries: a key of the groups, and whether the image has been flattened."""

    key: int
    flat: bool


def channel_groups(model: nn.Module) -> list[ChannelGroup]:
    """The channel axes of ``model``, in the order in which they are first written.

    Removable are channels that every writer hands straight to a batch normalisation: without its scale and shift such a
    channel is zero, and stays so up to the readers. Everything else is ``fixed``: input, output, streams that are
    normalised only where they are read (pre-activation).

    Raises
    ------
    InputError
        if the model cannot be traced, or holds an operator whose effect on channels is not known here.
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:
        raise InputError(f"the model cannot be traced by torch.fx ({type(error).__name__}: {error})") from None
    return _Walk(model, graph).groups()


class _Walk:
    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self._modules = dict(model.named_modules())
        self._graph = graph
        self._groups: dict[int, ChannelGroup] = {}
        self._joined: dict[int, int] = {}
        self._flows: dict[fx.Node, _Flow] = {}
        self._visited: set[str] = set()

    def groups(self) -> list[ChannelGroup]:
        for node in self._graph.nodes:
            if node.op == "output":
                for source in node.all_input_nodes:
                    self._group(self._flows[source]).fixed = "the network's output"
            elif node.op == "placeholder":
                self._flows[node] = self._new(0, fixed="the network's input")
            elif node.op == "call_module":
                self._flows[node] = self._module(node, self._modules[str(node.target)])
            else:
                self._flows[node] = self._function(node)
        return [group for key, group in self._groups.items() if self._root(key) == key and group.channels]

    def _module(self, node: fx.Node, module: nn.Module) -> _Flow:
        name, (source, *_) = str(node.target), node.all_input_nodes
        flow = self._flows[source]
        if isinstance(module, _ZERO_KEEPING_MODULES):
            return flow
        if isinstance(module, nn.Flatten):
            return self._flattened(node, flow, module.start_dim)
        if name in self._visited:
            raise InputError(f"module '{name}' is called twice; its channels cannot be removed in one place only")
        self._visited.add(name)
        if isinstance(module, NORMS):
            self._group(flow).norms.append(name)
            if not module.affine:
                self._group(flow).fixed = f"'{name}' has no scale"
            return flow
        if isinstance(module, PRUNABLE):
            return self._layer(node, name, module, flow)
        raise InputError(f"module '{name}' ({type(module).__name__}): its effect on channels is not known")

    def _layer(self, node: fx.Node, name: str, module: nn.Module, flow: _Flow) -> _Flow:
        group, linear = self._group(flow), isinstance(module, nn.Linear)
        groups = 1 if linear else int(module.groups)
        if linear and group.channels and not flow.flat:
            raise InputError(f"'{name}' reads an image that was not flattened; use nn.Flatten or torch.flatten(x, 1)")
        loose = not self._normalised(node)
        if groups > 1:
            if not groups == module.in_channels == module.out_channels:
                raise InputError(f"'{name}': {groups} groups; only depthwise convolutions can lose channels")
            group.depthwise.append(name)
            group.fixed = group.fixed or (f"'{name}' is not followed by a batch normalisation alone" if loose else "")
            return flow
        group.readers.append(name)
        written = self._new(int(module.weight.shape[0]), flat=linear)
        new = self._group(written)
        new.writers.append(name)
        new.fixed = f"'{name}' is not followed by a batch normalisation alone" if loose else ""
        return written

    def _function(self, node: fx.Node) -> _Flow:
        sources = node.all_input_nodes
        if node.target in _ZERO_KEEPING and len(sources) == 1:
            return self._flows[sources[0]]
        if node.target in _SUMS and len(sources) == len(node.args) == 2:
            first, second = (self._flows[source] for source in sources)
            return self._join(node, first, second)
        if node.target in _FLATTENS:
            start = node.kwargs.get("start_dim", node.args[1] if len(node.args) > 1 else 0)
            return self._flattened(node, self._flows[sources[0]], start)
        if node.target in (torch.mean, "mean") and _is_pooling(node):
            return _Flow(self._flows[sources[0]].key, flat=True)
        raise InputError(f"operator '{node.name}' ({node.target}): its effect on channels is not known")

    def _flattened(self, node: fx.Node, flow: _Flow, start: Any) -> _Flow:
        if start != 1:
            raise InputError(f"'{node.name}' flattens from dimension {start}; only from 1, behind the batch, is known")
        return _Flow(flow.key, flat=True)

    def _join(self, node: fx.Node, first: _Flow, second: _Flow) -> _Flow:
        a, b = sorted((self._root(first.key), self._root(second.key)))
        kept, gone = self._groups[a], self._groups[b]
        known = {group.channels for group in (kept, gone)} - {0}  # the input's are not known
        if len(known) > 1 or first.flat != second.flat:
            raise InputError(f"'{node.name}' adds {kept.channels} and {gone.channels} channels")
        kept.channels = max(known, default=0)
        if a != b:
            kept.absorb(gone)
            self._joined[b] = a
        return _Flow(a, first.flat)

    def _normalised(self, node: fx.Node) -> bool:
        """True if a batch normalisation is all that reads the node."""
        users = list(node.users)
        return (
            len(users) == 1 and users[0].op == "call_module" and isinstance(self._modules[str(users[0].target)], NORMS)
        )

    def _new(self, channels: int, *, fixed: str = "", flat: bool = False) -> _Flow:
        key = len(self._groups)
        self._groups[key] = ChannelGroup(channels, fixed=fixed)
        return _Flow(key, flat)

    def _root(self, key: int) -> int:
        while key in self._joined:
            key = self._joined[key]
        return key

    def _group(self, flow: _Flow) -> ChannelGroup:
        return self._groups[self._root(flow.key)]


def _is_pooling(node: fx.Node) -> bool:
    """True for a mean over both axes of the image that drops them."""
    axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    return isinstance(axes, list | tuple) and set(axes) in ({2, 3}, {-1, -2}) and not node.kwargs.get("keepdim", False)
