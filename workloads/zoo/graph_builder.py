"""Collects layers and fills in what follows from them: output sizes, GEMM views, parameter counts, sources.

Every method appends one layer (``recurrent``: two) and returns a :class:`Tensor`, the handle of its output. Builders
pass handles, so a layer's sources are what it was really given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..layers import Gemm, Layer, output_size
from ..network import INPUT

_RECTIFIERS = frozenset({"relu", "relu6"})
#: Gates of a recurrent cell: rows of its weight matrices per hidden unit (PyTorch documentation, nn.LSTM and nn.GRU).
_GATES = {"lstm": 4, "gru": 3}
Norm = Literal["after", "before"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a layer hands on: its producer, channels (or features), height and width in elements.

    ``rectified``: the values come out of a ReLU or ReLU6, so some are zero. An empty ``name`` has no producer in the graph.
    """

    name: str
    C: int
    H: int = 1
    W: int = 1
    rectified: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.name,) if self.name else ()

    def features(self, count: int) -> Tensor:
        """The same values read as rows of ``count`` features (tokens, flattened images, gathered points)."""
        return replace(self, C=count, H=1, W=1)


def input_image(size: int, *, channels: int = 3) -> Tensor:
    """The network's input: a square image."""
    return Tensor(INPUT, channels, size, size)


class GraphBuilder:
    """The layers of one network at batch 1, in execution order."""

    def __init__(self) -> None:
        self._layers: list[Layer] = []

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(self._layers)

    def _append(self, layer: Layer, *, rectified: bool = False) -> Tensor:
        self._layers.append(layer)
        return Tensor(layer.name, layer.K, layer.P, layer.Q, rectified)

    def conv(
        self,
        name: str,
        x: Tensor,
        *,
        K: int,
        R: int,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        bias: bool = False,
        norm: Norm | None = "after",
        activation: str = "relu",
    ) -> Tensor:
        """A square convolution; ``padding`` defaults to the one that keeps the size at stride 1 and odd R.

        ``norm``: batch normalisation behind the layer (2*K parameters), or with a ReLU in front of it (2*C parameters,
        "pre-activation"; the input then counts as rectified), or none.
        """
        padding = (R - 1) // 2 if padding is None else padding
        layer = Layer(
            name=name,
            op="dwconv" if groups == x.C and groups > 1 else "conv",
            C=x.C, H=x.H, W=x.W, K=K, R=R, S=R, stride=stride, padding=padding, groups=groups,
            P=output_size(x.H, kernel=R, stride=stride, padding=padding),
            Q=output_size(x.W, kernel=R, stride=stride, padding=padding),
            sources=x.sources,
            activation=activation,
            relu_in=x.rectified or norm == "before",
            weight_params=K * (x.C // groups) * R * R,
            bias_params=K if bias else 0,
            norm_params={"after": 2 * K, "before": 2 * x.C, None: 0}[norm],
        )  # fmt: skip
        return self._append(layer, rectified=activation in _RECTIFIERS)

    def depthwise(
        self, name: str, x: Tensor, *, R: int, stride: int = 1, activation: str = "relu"
    ) -> Tensor:  # fmt: skip
        """One R x R filter per channel, batch normalisation behind it."""
        return self.conv(name, x, K=x.C, R=R, stride=stride, groups=x.C, activation=activation)

    def pool(
        self, name: str, x: Tensor, *, R: int, stride: int, padding: int = 0, kind: Literal["max", "avg"] = "max"
    ) -> Tensor:
        """Maximum or mean over R x R windows; the size is rounded down."""
        layer = Layer(
            name=name, op=f"{kind}pool",
            C=x.C, H=x.H, W=x.W, K=x.C, R=R, S=R, stride=stride, padding=padding, groups=x.C,
            P=output_size(x.H, kernel=R, stride=stride, padding=padding),
            Q=output_size(x.W, kernel=R, stride=stride, padding=padding),
            sources=x.sources, relu_in=x.rectified,
        )  # fmt: skip
        return self._append(layer, rectified=x.rectified)

    def global_mean(self, name: str, x: Tensor) -> Tensor:
        """The mean of each channel over the whole image."""
        layer = Layer(
            name=name, op="avgpool", C=x.C, H=x.H, W=x.W, K=x.C, R=x.H, S=x.W, stride=x.H, groups=x.C,
            sources=x.sources, relu_in=x.rectified,
        )  # fmt: skip
        return self._append(layer, rectified=x.rectified)

    def max_over_height(self, name: str, x: Tensor) -> Tensor:
        """The maximum over the height axis (the neighbours of a point); the result is an ordinary rectified input."""
        layer = Layer(name=name, op="maxpool", C=x.C, H=x.H, W=x.W, K=x.C, R=x.H, Q=x.W, sources=x.sources)
        return self._append(layer, rectified=x.rectified)

    def add(self, name: str, x: Tensor, shortcut: Tensor, *, activation: str = "none") -> Tensor:
        """Elementwise sum of two images."""
        layer = Layer(
            name=name, op="add", C=x.C, H=x.H, W=x.W, K=x.C, P=x.H, Q=x.W,
            sources=(*x.sources, *shortcut.sources), activation=activation,
        )  # fmt: skip
        return self._append(layer, rectified=activation in _RECTIFIERS)

    def scale(self, name: str, x: Tensor, factors: Tensor) -> Tensor:
        """Each channel of ``x`` times its factor (squeeze and excitation)."""
        layer = Layer(
            name=name, op="mul", C=x.C, H=x.H, W=x.W, K=x.C, P=x.H, Q=x.W,
            sources=(*x.sources, *factors.sources), join="*",
        )  # fmt: skip
        return self._append(layer)

    def concat(self, name: str, parts: Sequence[Tensor]) -> Tensor:
        """Images side by side along the channels."""
        C, H, W = sum(part.C for part in parts), parts[0].H, parts[0].W
        layer = Layer(
            name=name, op="concat", C=C, H=H, W=W, K=C, P=H, Q=W,
            sources=tuple(source for part in parts for source in part.sources), join="|",
        )  # fmt: skip
        return self._append(layer)

    def batch_norm(self, name: str, x: Tensor, *, activation: str = "relu") -> Tensor:
        """A normalisation that stands alone: scale and shift per channel."""
        layer = Layer(
            name=name, op="bn", C=x.C, H=x.H, W=x.W, K=x.C, P=x.H, Q=x.W,
            sources=x.sources, activation=activation, norm_params=2 * x.C,
        )  # fmt: skip
        return self._append(layer, rectified=activation in _RECTIFIERS)

    def layer_norm(self, name: str, width: int) -> Tensor:
        """Normalisation of rows of ``width`` features: scale and shift per feature."""
        return self._append(Layer(name=name, op="layernorm", C=width, K=width, norm_params=2 * width))

    def linear(
        self,
        name: str,
        x: Tensor,
        features: int,
        *,
        rows: int = 1,
        repeat: int = 1,
        bias: bool = True,
        norm: bool = False,
        shared: bool = False,
        activation: str = "none",
        notes: str = "",
    ) -> Tensor:
        """A fully connected layer over ``rows`` rows at once, ``repeat`` times one after the other.

        ``shared``: the weights are another layer's and are counted there. ``norm``: batch normalisation behind it.
        """
        width = x.C * x.H * x.W
        layer = Layer(
            name=name, op="linear", C=width, K=features, repeat=repeat, gemm=Gemm(1, rows, features, width),
            sources=x.sources, activation=activation, relu_in=x.rectified,
            weight_params=0 if shared else features * width,
            bias_params=features if bias else 0,
            norm_params=2 * features if norm else 0,
            notes=notes,
        )  # fmt: skip
        return self._append(layer, rectified=activation in _RECTIFIERS)

    def matmul(
        self, name: str, operands: Sequence[Tensor], gemm: Gemm, *, repeat: int = 1, notes: str = ""
    ) -> Tensor:  # fmt: skip
        """A product of two activations: nothing is stored, nothing can be pruned."""
        layer = Layer(
            name=name, op="matmul", C=gemm.k, K=gemm.n, repeat=repeat, gemm=gemm,
            sources=tuple(source for operand in operands for source in operand.sources),
            join="*" if len(operands) > 1 else "+", notes=notes,
        )  # fmt: skip
        return self._append(layer)

    def recurrent(self, name: str, cell: Literal["lstm", "gru"], *, features: int, hidden: int, steps: int) -> Tensor:
        """One direction of a recurrent layer as two products.

        ``.ih`` multiplies the inputs of all steps at once (m = steps); ``.hh`` needs the step before, so it runs
        ``steps`` times with m = 1. Both have biases (PyTorch's convention).
        """
        rows = _GATES[cell] * hidden
        inputs = Layer(
            name=f"{name}.ih", op=f"{cell}_ih", C=features, K=rows, gemm=Gemm(1, steps, rows, features),
            activation=cell, weight_params=rows * features, bias_params=rows,
        )  # fmt: skip
        state = Layer(
            name=f"{name}.hh", op=f"{cell}_hh", C=hidden, K=rows, repeat=steps, gemm=Gemm(1, 1, rows, hidden),
            sources=(inputs.name,), activation=cell, weight_params=rows * hidden, bias_params=rows,
            notes="one product per time step",
        )  # fmt: skip
        self._append(inputs)
        return replace(self._append(state), C=hidden)

    def embedding(self, name: str, entries: int, width: int, *, notes: str = "") -> Tensor:
        """A table of ``entries`` rows that are looked up, not multiplied."""
        return self._append(
            Layer(name=name, op="embed", C=entries, K=width, weight_params=entries * width, notes=notes)
        )

    def parameters(self, name: str, count: int, *, notes: str = "") -> None:
        """Trained values that no product reads (tokens, positions, gains)."""
        self._layers.append(Layer(name=name, op="param", weight_params=count, notes=notes))

    def append(self, layer: Layer) -> Tensor:
        """A layer that only one family of networks has."""
        return self._append(layer)
