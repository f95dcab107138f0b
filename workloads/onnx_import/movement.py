"""Operators without stored-weight products: what they read and write, what is fused, what moves nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from ..graph import Node
from ..layers import CONV_OPS, Layer
from .draft import whole, wholes
from .table import LayerTable, image

#: The same elements under another shape, name or number type. A trace stores all activations at one width, so neither
#: a cast nor a pair of quantisation operators moves anything of its own.
_VIEWS = (
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast", "CastLike", "QuantizeLinear",
    "DequantizeLinear",
)  # fmt: skip
#: Operator -> row that reads every input and writes every output once.
_ROWS: Mapping[str, tuple[str, ...]] = {
    "softmax": ("Softmax", "LogSoftmax", "Hardmax"),
    "norm": (
        "LRN", "InstanceNormalization", "GroupNormalization", "LpNormalization", "RMSNormalization",
        "MeanVarianceNormalization", "DynamicQuantizeLinear",
    ),
    "layernorm": ("LayerNormalization",),
    "bn": ("BatchNormalization",),
    "reduce": (
        "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceLogSum",
        "ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin",
    ),
    "resize": ("Resize", "Upsample", "GridSample", "RoiAlign", "AffineGrid"),
    "rearrange": ("Transpose", "DepthToSpace", "SpaceToDepth", "Expand", "Tile", "ReverseSequence"),
    "pad": ("Pad",),
    "gather": (
        "GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND", "TopK", "OneHot", "Compress", "NonZero",
        "NonMaxSuppression",
    ),
    "elementwise": (
        "Abs", "Acos", "Acosh", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot",
        "BitwiseOr", "BitwiseXor", "Ceil", "Cos", "Cosh", "CumSum", "Div", "Equal", "Erf", "Exp", "EyeLike", "Floor",
        "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mod", "Mul",
        "Neg", "Not", "Or", "PRelu", "Pow", "Range", "Reciprocal", "Round", "Shrink", "Sign", "Sin", "Sinh", "Sqrt", "Sub",
        "Sum", "Tan", "Trilu", "Where", "Xor",
    ),
}  # fmt: skip
#: Operators of one input that may run where the result is made.
_ACTIVATIONS: Mapping[str, str] = {
    "Relu": "relu", "Clip": "", "Sigmoid": "sigmoid", "Tanh": "tanh", "Elu": "elu", "Gelu": "gelu", "Swish": "silu",
    "LeakyRelu": "", "HardSwish": "", "HardSigmoid": "", "Selu": "", "Celu": "", "Mish": "", "Softplus": "",
    "Softsign": "", "ThresholdedRelu": "",
}  # fmt: skip
#: Rows behind which zeros of a ReLU are still zeros.
_KEEPS_ZEROS = frozenset({"rearrange", "pad", "gather", "concat", "maxpool", "avgpool"})
_RELU6_LIMITS = (0.0, 6.0)


def move(table: LayerTable, node: Node, op: str, *, reads: int | None = None, activation: str = "none") -> Layer | None:
    """Append a row that reads ``reads`` elements (by default every activation, and every constant summand, factor or part)
    and writes every output; None, and a gap, where a shape is unknown."""
    shapes = [table.draft.shapes.get(name) for name in (*node.inputs, *node.outputs) if name]
    if any(shape is None for shape in shapes):
        table.gap(node, macs=0, reason="the size of its operands depends on the values")
        return None
    found = [name for name in node.inputs if name]
    written = sum(math.prod(table.draft.shapes[name]) for name in node.outputs if name)
    varying = [name for name in found if not table.draft.is_constant(name)]
    counted = found if op in ("elementwise", "concat") else varying
    read = sum(math.prod(table.draft.shapes[name]) for name in counted) if reads is None else reads
    rectified = [table.origin(name).rectified for name in varying]
    keeps = op in _KEEPS_ZEROS and all(rectified) and bool(rectified)
    K, P, Q = image(table.draft.shapes[node.outputs[0]])
    one = len([name for name in node.outputs if name]) == 1 and written > 0
    layer = Layer(
        name=node.name, op=op, C=max(1, read), K=K if one else max(1, written), P=P if one else 1, Q=Q if one else 1,
        sources=table.sources(varying), join="|" if op == "concat" else "+", relu_in=any(rectified), activation=activation,
        norm_params=_parameters(table, node, op), notes=node.op,
    )  # fmt: skip
    table.add(layer, makes=node.outputs, rectified=keeps or activation in ("relu", "relu6"))
    return layer


def _parameters(table: LayerTable, node: Node, op: str) -> int:
    """Trained values that the operator reads: constants of more than one number. Of a batch normalisation scale and shift;
    running statistics are not counted."""
    if op not in ("elementwise", "norm", "layernorm", "bn"):
        return 0
    names = [
        name for name in (node.inputs[1:3] if op == "bn" else node.inputs) if name and table.draft.is_constant(name)
    ]
    sizes = {name: math.prod(table.draft.shapes[name]) for name in names if "float" in table.draft.dtypes[name].name}
    return sum(size for name, size in sizes.items() if size > 1 and not table.counted(name, node.name))


def activated(table: LayerTable, node: Node) -> None:
    """Run the activation where its input is made, if nothing else reads that and the table has a name for it."""
    name = _activation_name(table, node)
    if not name or not fuse_activation(table, node.inputs[0], name, node.outputs[0]):
        move(table, node, "elementwise", activation=name or "none")


def fuse_activation(table: LayerTable, tensor: str, name: str, makes: str, *, readers: int = 1) -> bool:
    """Let the row that made ``tensor``, read ``readers`` times, apply the activation, too."""

    def change(layer: Layer) -> Layer | None:
        fits = layer.activation == "none" and layer.op not in ("view", "softmax")
        return replace(layer, activation=name) if fits else None

    return table.fuse(tensor, change, makes, readers=readers)


def _activation_name(table: LayerTable, node: Node) -> str:
    if node.op != "Clip":
        return _ACTIVATIONS[node.op]
    limits = [node.attributes.get(key) for key in ("min", "max")]
    for index in (1, 2):  # operands since operator set 11
        value = table.draft.constants.get(node.inputs[index]) if table.has(node, index) else None
        if value is not None and value.size == 1:
            limits[index - 1] = float(value.reshape(())[()])
    return "relu6" if tuple(limits) == _RELU6_LIMITS else "relu" if limits[0] == 0 and limits[1] is None else ""


def _view(table: LayerTable, node: Node) -> None:
    table.pass_on(node.inputs[0], node.outputs)


def _add(table: LayerTable, node: Node) -> None:
    """A bias behind a product joins it; a sum of equal shapes is an ``add``; anything else is elementwise."""
    varying = [name for name in node.inputs if not table.draft.is_constant(name)]
    if len(varying) == 1 and _is_bias(table, node, varying[0]):
        size = math.prod(table.draft.shapes[next(n for n in node.inputs if n != varying[0])])

        def change(layer: Layer) -> Layer | None:
            free = layer.op == "linear" and layer.activation == "none" and layer.bias_params == 0
            return replace(layer, bias_params=size) if free and layer.gemm and layer.gemm.n == size else None

        if table.fuse(varying[0], change, node.outputs[0]):
            return
    shapes = {table.draft.shapes.get(name) for name in (*node.inputs, *node.outputs)}
    sources = table.sources(node.inputs)
    made = {(x.K, x.P, x.Q) for s in sources if (x := table.layers.get(s)) and (x.gemm is None or x.op in CONV_OPS)}
    if len(shapes) > 1 or None in shapes or len(sources) != len(node.inputs) or len(made) > 1:
        move(table, node, "elementwise")
        return
    C, H, W = image(table.output_shape(node))
    if 0 in (C, H, W):
        table.pass_on(node.inputs[0], node.outputs)
        return
    layer = Layer(name=node.name, op="add", C=C, H=H, W=W, K=C, P=H, Q=W, sources=sources)
    table.add(layer, makes=node.outputs)


def _is_bias(table: LayerTable, node: Node, varying: str) -> bool:
    """Whether the constant summand is one value per output feature (last axis)."""
    shape = table.draft.shapes.get(varying)
    constant = table.draft.shapes[next((n for n in node.inputs if n != varying), varying)]
    return bool(shape) and math.prod(constant) == constant[-1:][0] == shape[-1] if constant and shape else False


def _pool(table: LayerTable, node: Node) -> None:
    """Pooling over an image keeps its window in the table."""
    made = move(table, node, "maxpool" if "Max" in node.op else "avgpool")
    shape = table.draft.shapes.get(node.inputs[0])
    if made is None or shape is None or len(shape) != 4 or 0 in shape:
        return
    C, H, W = image(shape)
    R, S = wholes(node, "kernel_shape", (H, W)) if not node.op.startswith("Global") else (H, W)
    steps, pads = wholes(node, "strides", (1, 1)), wholes(node, "pads", (0, 0, 0, 0))
    stride = H if node.op.startswith("Global") else steps[0]
    table.layers[made.name] = replace(made, C=C, H=H, W=W, R=R, S=S, stride=stride, padding=max(pads), groups=C)


def _concat(table: LayerTable, node: Node) -> None:
    move(table, node, "concat")


def _gather(table: LayerTable, node: Node) -> None:
    """Rows of a stored table are an embedding; everything else reads what it writes."""
    shape = table.draft.shapes.get(node.outputs[0])
    reads = None if shape is None else math.prod(shape)
    stored = table.draft.is_constant(node.inputs[0]) and whole(node, "axis", 0) == 0
    made = move(table, node, "embed" if stored else "gather", reads=reads)
    if made is not None and stored:
        size = math.prod(table.shape(node, 0))
        first = table.counted(node.inputs[0], node.name)
        table.layers[made.name] = replace(made, weight_params=0 if first else size)


def _slice(table: LayerTable, node: Node) -> None:
    """Slice and Split read what they write."""
    known = [table.draft.shapes.get(name) for name in node.outputs if name]
    written = sum(math.prod(shape) for shape in known if shape is not None)
    move(table, node, "rearrange", reads=written)


def _simple(op: str) -> Callable[[LayerTable, Node], None]:
    def handler(table: LayerTable, node: Node) -> None:
        move(table, node, op)

    return handler


HANDLERS: Mapping[str, Callable[[LayerTable, Node], None]] = {
    **{name: _simple(op) for op, names in _ROWS.items() for name in names},
    **dict.fromkeys(_VIEWS, _view),
    **dict.fromkeys(_ACTIVATIONS, activated),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"), _pool),
    **dict.fromkeys(("Slice", "Split"), _slice),
    "Add": _add,
    "Sum": _add,
    "Concat": _concat,
    "Gather": _gather,
}
