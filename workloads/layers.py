"""What a layer computes: its dimensions, its GEMM view, its multiply-accumulates.

Symbols are the field's: N,K,C,P,Q,R,S for convolutions, b,m,n,k for the GEMM view
(``b`` independent products of (m x k) by (k x n); m = output positions, n = output features, k = reduction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import InputError, unknown_name

#: Operators whose work is a product with a *stored* weight matrix (prunable).
STATIC_OPS = frozenset({"conv", "dwconv", "linear", "lstm_ih", "lstm_hh", "gru_ih", "gru_hh"})
#: Operators whose work is a product of two activations.
DYNAMIC_OPS = frozenset({"matmul", "spmm"})
#: Operators that only move, select or combine data. They have no multiply-accumulates.
DATA_OPS = frozenset(
    {
        "maxpool", "avgpool", "add", "concat", "mul", "bn", "layernorm",
        "embed", "edge_softmax", "fps", "ballquery", "param",
        # Of imported graphs: arithmetic per element; any other normalisation; reductions; interpolation; the same
        # elements elsewhere (transposed, sliced, repeated); by index; zeros around; another shape, nothing moves.
        "elementwise", "softmax", "norm", "reduce", "resize", "rearrange", "gather", "pad", "view",
    }
)  # fmt: skip
OPS = STATIC_OPS | DYNAMIC_OPS | DATA_OPS
CONV_OPS = frozenset({"conv", "dwconv"})
WINDOW_OPS = CONV_OPS | {"maxpool", "avgpool"}
ACTIVATIONS = frozenset({"none", "relu", "relu6", "silu", "gelu", "elu", "sigmoid", "tanh", "lstm", "gru"})


@dataclass(frozen=True, slots=True)
class Gemm:
    """``b`` products of (m x k) by (k x n)."""

    b: int
    m: int
    n: int
    k: int

    @property
    def macs(self) -> int:
        return self.b * self.m * self.n * self.k


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One operator of a network at batch 1. Sizes in elements.

    ``gemm`` is given only where the dimensions do not determine it (tokens, heads, edges); convolutions derive it:
    b = groups, m = P*Q, n = K/groups, k = C/groups*R*S. ``repeat`` counts sequential runs of the same product (time steps).

    Raises
    ------
    InputError
        for an unknown operator or activation, a size below 1, a convolution whose output size does not follow from
        P = (H + 2*padding - dilation*(R-1) - 1) // stride + 1, or channels that the groups do not divide.
    """

    name: str
    op: str
    C: int = 1
    H: int = 1
    W: int = 1
    K: int = 1
    P: int = 1
    Q: int = 1
    R: int = 1
    S: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    repeat: int = 1
    gemm: Gemm | None = None
    sources: tuple[str, ...] = ()
    join: str = "+"
    activation: str = "none"
    relu_in: bool = False
    weight_params: int = 0
    bias_params: int = 0
    norm_params: int = 0
    notes: str = ""

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise InputError([f"layer '{self.name}': {p}" for p in problems])
        if self.op in CONV_OPS:
            object.__setattr__(self, "gemm", self._conv_gemm())
        elif self.op in DATA_OPS:
            object.__setattr__(self, "gemm", None)

    def _problems(self) -> list[str]:
        if self.op not in OPS:
            return [str(unknown_name("operator", self.op, OPS))]
        out = []
        if self.activation not in ACTIVATIONS:
            out.append(str(unknown_name("activation", self.activation, ACTIVATIONS)))
        for field in ("C", "H", "W", "K", "P", "Q", "R", "S", "stride", "dilation", "groups", "repeat"):
            if getattr(self, field) < 1:
                out.append(f"{field} = {getattr(self, field)}, must be at least 1")
        if self.padding < 0:
            out.append(f"padding = {self.padding}, must not be negative")
        if not out and self.op in CONV_OPS:
            out += self._conv_problems()
        elif self.op not in DATA_OPS | CONV_OPS:
            out += self._gemm_problems()
        return out

    def _gemm_problems(self) -> list[str]:
        if self.gemm is None:
            return [f"operator '{self.op}' needs its GEMM view (b, m, n, k)"]
        sizes = {axis: getattr(self.gemm, axis) for axis in "bmnk"}
        return [f"gemm {axis} = {size}, must be at least 1" for axis, size in sizes.items() if size < 1]

    def _conv_problems(self) -> list[str]:
        out = []
        if self.C % self.groups or self.K % self.groups:
            out.append(f"groups = {self.groups} does not divide C = {self.C} and K = {self.K}")
        for size, kernel, found, name in ((self.H, self.R, self.P, "P"), (self.W, self.S, self.Q, "Q")):
            expected = output_size(
                size, kernel=kernel, stride=self.stride, padding=self.padding, dilation=self.dilation
            )
            if found != expected:
                out.append(f"{name} = {found}, but the output size formula gives {expected}")
        return out

    def _conv_gemm(self) -> Gemm:
        g = self.groups
        return Gemm(g, self.P * self.Q, self.K // g, self.C // g * self.R * self.S)

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates of the layer, all repeats included."""
        return 0 if self.gemm is None else self.repeat * self.gemm.macs

    @property
    def has_weights(self) -> bool:
        """True if one operand of the product is a stored, prunable weight matrix."""
        return self.op in STATIC_OPS

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Natural shape of the stored weights: (K, C/groups, R, S) for convolutions, (b*n, k) otherwise."""
        if not self.has_weights or self.gemm is None:
            return ()
        if self.op in CONV_OPS:
            return (self.K, self.C // self.groups, self.R, self.S)
        return (self.gemm.b * self.gemm.n, self.gemm.k)

    @property
    def input_size(self) -> int:
        """Elements of the (first) input operand of one run."""
        if self.gemm is not None and self.op not in CONV_OPS:
            return self.gemm.b * self.gemm.m * self.gemm.k
        return self.C * self.H * self.W

    @property
    def output_size(self) -> int:
        """Elements of the output of one run."""
        if self.gemm is not None:
            return self.gemm.b * self.gemm.m * self.gemm.n
        return self.K * self.P * self.Q

    @property
    def params(self) -> int:
        return self.weight_params + self.bias_params + self.norm_params


def output_size(size: int, *, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Output length of a strided window operator (PyTorch Conv2d documentation, "Shape")."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def conv(
    name: str,
    source: str | Sequence[str],
    *,
    C: int,
    H: int,
    K: int,
    R: int,
    W: int | None = None,
    S: int | None = None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    activation: str = "none",
    relu_in: bool = False,
) -> Layer:
    """A convolution layer with its output size filled in; square where W or S are left out."""
    if stride < 1 or groups < 1:
        raise InputError(f"layer '{name}': stride = {stride} and groups = {groups} must be at least 1")
    W, S = W or H, S or R
    P = output_size(H, kernel=R, stride=stride, padding=padding)
    Q = output_size(W, kernel=S, stride=stride, padding=padding)
    return Layer(
        name=name,
        op="dwconv" if groups == C and groups > 1 else "conv",
        C=C, H=H, W=W, K=K, P=P, Q=Q, R=R, S=S, stride=stride, padding=padding, groups=groups,
        sources=(source,) if isinstance(source, str) else tuple(source),
        activation=activation,
        relu_in=relu_in,
        weight_params=K * (C // groups) * R * S,
        bias_params=K,
    )  # fmt: skip


def linear(
    name: str,
    source: str,
    *,
    features_in: int,
    features_out: int,
    rows: int = 1,
    activation: str = "none",
    relu_in: bool = False,
) -> Layer:
    """A fully connected layer over ``rows`` row vectors."""
    return Layer(
        name=name,
        op="linear",
        C=features_in,
        K=features_out,
        gemm=Gemm(1, rows, features_out, features_in),
        sources=(source,),
        activation=activation,
        relu_in=relu_in,
        weight_params=features_in * features_out,
        bias_params=features_out,
    )
