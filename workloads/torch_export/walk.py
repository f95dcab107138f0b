"""From an exported PyTorch graph to layers and their weights at every level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.fx import Node

from .levels import ExportError, State, keep_counts
from .nodes import LAYOUTS, MOVES, VIEWS, arguments, grid, keeps_order, moved_bytes, operation, shape, tensors


class Value(NamedTuple):
    """A tensor of the graph: the layers it comes from, whether a ReLU made it, the layer whose own output it is."""

    sources: tuple[str, ...]
    rectified: bool = False
    owner: dict[str, Any] | None = None


#: Turns a node into layers; None where the operator, with these arguments, is data movement after all.
Handler = Callable[["Walk", Node, dict[str, Any]], Value | None]


def trace(model: torch.nn.Module, inputs: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """The model's graph without in-place operators; products written as index sums (einsum) are spelled out."""
    try:
        program = torch.export.export(model, inputs)
        table = {key: rule for key, rule in torch.export.default_decompositions().items() if "einsum" in str(key)}
        return program.run_decompositions(table)
    except Exception as error:  # whatever the tracer or the model raises is the user's to read
        said = " ".join(str(error).strip().split("\n\n")[0].split())
        raise ExportError(f"torch.export cannot trace the model: {type(error).__name__}: {said}") from error


class Walk:
    """Layers in execution order.

    ``watched``: product node -> (its layer, the node that it reads); ``batch``: first size of the first input.
    """

    def __init__(
        self, program: torch.export.ExportedProgram, states: Sequence[State], handlers: Mapping[str, Handler]
    ) -> None:
        self.program, self.states = program, states
        self.layers: list[dict[str, Any]] = []
        self.constants: dict[Node, list[torch.Tensor]] = {}
        self.values: dict[Node, Value] = {}
        self.watched: dict[Node, tuple[dict[str, Any], Node]] = {}
        self.weights: dict[str, list[torch.Tensor]] = {}
        self.biases: dict[str, list[torch.Tensor]] = {}
        self.batch = 0
        self._handlers = handlers
        self._names: dict[Node, str] = {}
        self._taken = {"input"}
        self._owners: dict[int, tuple[str, torch.Tensor]] = {}
        self._unmodelled: list[tuple[str, str, int]] = []
        self._bytes = 0

    def run(self) -> None:
        """Visit every node once."""
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "call_function" and tensors(node) and not self._fold_constant(node):
                if operation(node) not in VIEWS:
                    self._bytes += moved_bytes(node)
                self.values[node] = self._value_of(node)

    def stored_tensors(self) -> dict[str, torch.Tensor]:
        """NAME.weight float32, NAME.weight.keep uint8 and NAME.bias float32 (levels, K) of every product layer."""
        stored = {}
        for name, levels in self.weights.items():
            stored[f"{name}.weight"] = levels[0].float().clone()
            stored[f"{name}.weight.keep"] = keep_counts(f"{name}.weight", levels)
            if name in self.biases:
                stored[f"{name}.bias"] = torch.stack([bias.float() for bias in self.biases[name]])
        return stored

    def unmodelled_operators(self) -> list[dict[str, Any]]:
        """Operators that nobody here knows: the bytes they read and write, and their share of the network's."""
        return [
            {"name": name, "operator": op, "bytes": size, "share": size / max(1, self._bytes)}
            for name, op, size in self._unmodelled
        ]

    def name_of(self, node: object, default: str) -> str:
        """Name of the module that owns a parameter: ``layer1.conv`` for ``layer1.conv.weight``."""
        name = self._names.get(node, "") if isinstance(node, Node) else ""
        owner = name.removesuffix("weight").rstrip("._")
        return owner or default

    def add(
        self, node: Node, op: str, *, name: str = "", inputs: Sequence[Value] | None = None, **fields: Any
    ) -> Value:
        """Append a layer; unless told otherwise it reads the node's first input and has the sizes of the node."""
        known = self.inputs(node)[:1] if inputs is None else inputs
        before = grid(shape(node.all_input_nodes[0]) if node.all_input_nodes else ())
        layer = {
            "name": self._unique(name or node.name),
            "op": op,
            **dict(zip("CHWKPQ", (*before, *grid(shape(node))), strict=True)),
            "sources": [source for value in known for source in value.sources],
            "relu_in": bool(known) and all(value.rectified for value in known),
            **fields,
        }
        self.layers.append(layer)
        return Value((layer["name"],), owner=layer)

    def inputs(self, node: Node) -> list[Value]:
        """What the node reads, constants left out."""
        return [self.values[n] for n in node.all_input_nodes if n in self.values]

    def store(self, layer: dict[str, Any], weight: Sequence[torch.Tensor], bias: Sequence[torch.Tensor] | None) -> None:
        """Weights (one tensor per level, already of the layer's shape) and biases of a layer."""
        self.weights[layer["name"]] = list(weight)
        layer["weight_params"] = self.owned(weight[0], layer)
        if bias is not None:
            self.biases[layer["name"]] = [values.reshape(-1) for values in bias]
            layer["bias_params"] = self.owned(bias[0], layer)

    def owned(self, parameter: torch.Tensor, layer: dict[str, Any]) -> int:
        """Elements of a parameter, counted at the first layer that uses it; later layers name that one."""
        # The tensor is kept, too: its memory must not become another one's.
        first, _ = self._owners.setdefault(parameter.untyped_storage().data_ptr(), (layer["name"], parameter))
        if first == layer["name"]:
            return int(parameter.numel())
        shared = f"parameters of '{first}', counted there"
        notes = [note for note in layer.get("notes", "").split("; ") if note and note != shared]
        layer["notes"] = "; ".join([*notes, shared])
        return 0

    def _unique(self, name: str) -> str:
        unique, count = name, 2
        while unique in self._taken:
            unique, count = f"{name}@{count}", count + 1
        self._taken.add(unique)
        return unique

    def _placeholder(self, node: Node) -> None:
        signature = self.program.graph_signature
        kinds = (
            signature.inputs_to_parameters,
            signature.inputs_to_buffers,
            signature.inputs_to_lifted_tensor_constants,
        )
        name = next((kind[node.name] for kind in kinds if node.name in kind), None)
        if name is None:
            self.values[node] = Value(("input",))
            self.batch = self.batch or (shape(node) or (1,))[0]
            return
        own = {**self.program.constants, **self.program.state_dict}
        self.constants[node] = [state.get(name, own[name]) for state in self.states]
        for level, state in enumerate(self.states if node.name in signature.inputs_to_parameters else ()):
            if name not in state or state[name].shape != own[name].shape:
                found = tuple(state[name].shape) if name in state else "missing"
                raise ExportError(f"'{name}' at level {level} is {found}; the model's is {tuple(own[name].shape)}")
        self._names[node] = name

    def _fold_constant(self, node: Node) -> bool:
        """True if the node depends on parameters only; its value is then computed here, once per level."""
        inputs = node.all_input_nodes
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if random or not callable(node.target) or any(n not in self.constants for n in inputs):
            return False
        values = []
        for level in range(len(self.states)):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n, i=level: self.constants[n][i])
            values.append(node.target(*args, **kwargs))
        self.constants[node] = values
        if len(inputs) == 1 and inputs[0] in self._names:
            self._names[node] = self._names[inputs[0]]
        return True

    def _value_of(self, node: Node) -> Value:
        name = operation(node)
        handler = self._handlers.get(name)
        value = handler(self, node, arguments(node)) if handler is not None else None
        if value is not None:
            return value
        read = self.inputs(node)
        if len(read) == 1 and (name in VIEWS or keeps_order(node)):
            return read[0] if len(node.all_input_nodes[0].users) == 1 else read[0]._replace(owner=None)
        if name not in MOVES and name not in self._handlers:
            self._unmodelled.append((node.name, name, moved_bytes(node)))
        kind = MOVES.get(name, "elementwise")
        rectified = kind in LAYOUTS and bool(read) and all(value.rectified for value in read)
        value = self.add(node, kind, inputs=read, notes=name)
        self._count_parameters(node, value, "norm_params" if kind == "norm" else "weight_params")
        return value._replace(rectified=rectified)

    def _count_parameters(self, node: Node, value: Value, kind: str) -> None:
        """Trained values that a data layer reads (positions, tokens, gains) count at that layer."""
        trained = set(self.program.graph_signature.inputs_to_parameters.values())
        names = [self._names[n] for n in node.all_input_nodes if n in self._names]
        if value.owner is not None:
            counted = [self.owned(self.states[0][name], value.owner) for name in names if name in trained]
            value.owner[kind] = sum(counted)
