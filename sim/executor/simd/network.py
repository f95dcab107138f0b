"""A whole convolutional network on planes, one image at a time: the lowest latency the executor has."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ....workloads.errors import InputError
from ....workloads.layers import CONV_OPS, Layer
from ....workloads.nesting import NestedWeights
from ....workloads.network import INPUT, Network
from ..plan import make_plan
from ..store import Level, given_levels
from . import gate_kernel, packing_kernel
from .arrangement import fused_sums, layouts, place
from .chosen import call_of, dense_for, product_for
from .loading import load_kernels, silent
from .planes import Floats, PlaneLayout, real_floats
from .pooling import Pooling
from .prior import likely_plan
from .product import LayerPlan
from .program import Program
from .rows.few_vectors import PlaneRows, rows_for
from .rows.row_formats import RowChooser, likely_formats
from .team import Call, Team, call
from .vectors_kernel import COMPILES

if TYPE_CHECKING:
    from .chosen import AnyDense, AnyProduct
    from .rows.fully_connected import RowProduct

#: Which kernels run a convolution: called with the layer, its weights, source and target layout.
Chooser = Callable[[Layer, NestedWeights, PlaneLayout, PlaneLayout], LayerPlan]

#: Seconds after which a batch comes back to the interpreter.
_CALL_S = 0.05
_CLAMPS: Mapping[str, tuple[float, float]] = {"relu": (0.0, np.inf), "relu6": (0.0, 6.0)}
_GATES = {
    "silu": gate_kernel.SILU,
    "gelu": gate_kernel.GELU,
    "sigmoid": gate_kernel.SIGMOID,
    "tanh": gate_kernel.TANH,
}


class PlaneNetwork:
    """Runs single images of a convolutional network. Weights are stored once for all levels; memory is planned once.

    The first run at a level makes its program: kernel calls with all arguments bound, mostly one per layer, so that
    switching levels costs nothing.

    Parameters
    ----------
    network : with weight values; see :func:`unsupported`.
    threads : they follow the program together and share each kernel call; outputs are bit-identical for any number.
    choose : which kernel runs each convolution; the default knows the cache sizes, a planner has measured.
    choose_rows : the same for fully connected layers of one vector, whose formats differ.

    Raises
    ------
    InputError
        naming every layer that cannot be executed here.
    """

    def __init__(
        self,
        network: Network,
        *,
        threads: int = 1,
        choose: Chooser = likely_plan,
        choose_rows: RowChooser = likely_formats,
    ) -> None:
        if threads < 1:
            raise InputError(f"{threads} threads; at least 1 is needed")
        problems = unsupported(network)
        if problems:
            raise InputError([f"network '{network.name}' has no plane kernels: {p}" for p in problems])
        self.network, self.threads = network, threads
        #: Called with (kernels ready, in total) while the first run at a level loads or compiles what it needs.
        self.progress: Callable[[int, int], None] = silent
        self.input_shape = make_plan(network).input_shape
        self._fused = fused_sums(network)
        self._layouts = layouts(network, self.input_shape)
        self.plans: dict[str, LayerPlan] = {}
        self.products = {x.name: self._product(x, choose) for x in network.layers if x.op in CONV_OPS}
        self._poolings = {
            x.name: Pooling(x, self._layouts[x.sources[0]], self._layouts[x.name])
            for x in network.layers
            if x.op in ("maxpool", "avgpool")
        }
        self._rows = {
            x.name: rows_for(
                network.weights[x.name], vectors=_vectors(x), threads=threads, choose=choose, choose_rows=choose_rows
            )
            for x in network.layers
            if x.op == "linear"
        }
        self._dense: dict[tuple[str, int], AnyDense] = {}
        self._allocate()

    def _allocate(self) -> None:
        """What no two runs may share: tensors, scratch memory, and the programs that are bound to them."""
        self._buffers, self._phases, self._shared = place(self.network, self._layouts, self._fused, self._packed())
        self._works: dict[str, list[Any]] = {}
        self._programs: dict[tuple[int, ...], Program] = {}
        self._team = Team(self.threads)
        # Views that a small network would spend a tenth of its time on making.
        self._inside, self._outcome = self.tensor(INPUT), self.tensor(self.network.layers[-1].name)

    def twin(self) -> PlaneNetwork:
        """The same network with memory for its own tensors: both may run at the same time, once each is prepared.

        Weights, plans and kernels are shared: a twin takes an arena and scratch memory, and gives the same bits.
        """
        other = copy(self)
        other._rows = {name: row.twin() for name, row in self._rows.items()}
        other._allocate()
        return other

    def prepare(self, level: Level) -> None:
        """Load kernels and make the program of a level, which its first run would do.

        Raises
        ------
        InputError
            for a level that does not exist.
        """
        self._program(level)

    def run(self, image: ArrayLike, level: Level) -> Floats:
        """Output of one image, (C, H, W) or flat, of any real type: the last layer's, float32, flattened.

        NaN and infinite values reach what is computed from them: at a level that prunes nothing as in the dense result. A
        pruned weight need not read its input, so at sparser levels fewer outputs may be touched, never others.

        Raises
        ------
        InputError
            for a level that does not exist, an image of another size, or values that are not real numbers of float32's range.
        """
        program, values = self._program(level), real_floats(image, "image", "(C, H, W) or flat")
        if values.size != self._inside.size or not _same_axes(values.shape, self.input_shape):
            raise InputError(f"image has shape {values.shape}; network '{self.network.name}' needs {self.input_shape}")
        outputs = np.empty((1, self._outcome.size), np.float32)
        self._infer(program, values.reshape(1, -1), outputs)
        return outputs.reshape(-1)

    def run_batch(self, images: Floats, level: Level, outputs: Floats) -> None:
        """Write the outputs of ``images``, float32 (N, elements), to ``outputs``, float32 (N, elements), contiguous: those
        of :meth:`run`, bit by bit. Images go through one after the other; shapes and types are not checked.

        Raises
        ------
        InputError
            for a level that does not exist.
        """
        self._infer(self._program(level), images, outputs)

    def _infer(self, program: Program, images: Floats, outputs: Floats) -> None:
        """The last layer's outputs for images of the input's size, both (N, elements)."""
        if self.threads == 1:
            self._infer_alone(program, images, outputs)
            return
        for image, output in zip(images, outputs, strict=True):
            self._inside[:] = image.reshape(self._inside.shape)
            program.rewind()
            self._team.together(program.run)
            output[:] = self._outcome.reshape(-1)

    def _infer_alone(self, program: Program, images: Floats, outputs: Floats) -> None:
        """Many images in one call, but not for so long that an interrupt would seem lost."""
        first, count = 0, 1
        while first < len(images):
            some = slice(first, first + count)
            start = time.perf_counter()
            # Memory that may not be written is another type for Numba, which would compile once more.
            given = np.require(images[some], requirements=("C", "W"))
            program.run_images(given, self._inside, self._outcome, outputs[some])
            first += count
            count = max(1, int(count * _CALL_S / (time.perf_counter() - start)))

    def tensor(self, name: str) -> Floats:
        """A layer's output (channels, height, width) as the last run left it, unless its memory was used again."""
        return self._layouts[name].view(self._buffers[name])

    def steps(self, level: Level) -> list[tuple[str, Call]]:
        """The program of a level with each step's layer, for profiles."""
        levels = self.levels(level)
        return [
            (layer.name, step)
            for layer in self.network.layers
            for level in [levels.get(layer.name, 0)]
            for step in (*self._clearing(layer.name), *self._layer_steps(layer, level))
        ]

    def _program(self, level: Level) -> Program:
        levels = self.levels(level)
        key = tuple(levels.values())
        if key not in self._programs:
            steps = [step for _, step in self.steps(level)]
            load_kernels(steps, self.progress)
            program = self._programs[key] = Program(steps, self.threads)
            if self.threads == 1:  # what carries images through it is loaded, too
                image, output = (np.empty((0, one.size), np.float32) for one in (self._inside, self._outcome))
                program.run_images(image, self._inside, self._outcome, output)
        return self._programs[key]

    def levels(self, level: Level) -> dict[str, int]:
        """The level of each weighted layer.

        Raises
        ------
        InputError
            for a level that does not exist, or another number of levels than layers with weights.
        """
        names = [x.name for x in self.network.layers if x.has_weights]
        each = given_levels(level, len(names))
        for name, one in zip(names, each, strict=True):
            self.network.weights[name].check_level(one)
        return dict(zip(names, each, strict=True))

    def _product(self, layer: Layer, choose: Chooser) -> AnyProduct:
        source, target = self._layouts[layer.sources[0]], self._layouts[layer.name]
        weights = self.network.weights[layer.name]
        plan = self.plans[layer.name] = choose(layer, weights, source, target)
        return product_for(layer, weights, source, target, choice=plan.sparse, threads=self.threads)

    def _clearing(self, name: str) -> list[Call]:
        """Zeros around tensors in memory that others use, too; between the rows of those that are not written in tiles."""
        if name not in self._shared:
            return []
        memory, layout, names = self._shared[name]
        tiled = {x.name for x in self.network.layers if x.op == "add" or x.op in CONV_OPS}
        gaps = max((self._layouts[x].channels for x in names if x not in tiled), default=0)
        return [call(packing_kernel.clear, layout.channels, memory, layout.dimensions, gaps)]

    def _layer_steps(self, layer: Layer, level: int) -> list[Call]:
        if layer.name in self._fused.values():
            return []  # written by the product
        if layer.op in CONV_OPS:
            return self._convolution(layer, level)
        out = self._buffers[layer.name]
        layout = self._layouts[layer.name]
        target, masks = layout.dimensions, layout.masks(1)
        x = [self._buffers[name] for name in layer.sources]
        steps: list[Call] = []
        if layer.op == "linear":
            steps += self._linear(layer, level)
        elif layer.op == "concat":
            steps += self._concatenate(layer)
        elif layer.op == "add":
            clamp = clamp_of(layer.activation)
            steps += [call(packing_kernel.add, layout.channels, x[0], x[1], out, target, masks, *clamp)]
        elif layer.op == "mul":
            wide, narrow = sorted(layer.sources, key=lambda name: -self._layouts[name].positions)
            factors = self.tensor(narrow)
            if factors[0].size > 1:
                steps += [call(packing_kernel.multiply, layout.channels, x[0], x[1], out, target, masks)]
            else:
                scales = (self._buffers[wide], factors[:, 0, 0], out, target, masks)
                steps += [call(packing_kernel.scale, layout.channels, *scales)]
        else:
            steps += self._poolings[layer.name].calls(x[0], out, self._phases.get(layer.name))
        return steps + self._gate(layer.name, layer.activation)

    def _convolution(self, layer: Layer, level: int) -> list[Call]:
        product, x = self.products[layer.name], self._buffers[layer.sources[0]]
        last, added = self.written_by(layer)
        residual = None if added is None else self._buffers[added]
        steps: list[Call] = []
        if product.packs:
            phases = self._phases[layer.name]
            steps.append(product.packing(x, phases))
            x = phases
        common = {"bias": self.bias(layer, level), "clamp": clamp_of(last.activation), "residual": residual}
        steps.append(self._product_call(layer, level, x, self._buffers[last.name], common))
        return steps + self._gate(last.name, last.activation)

    def _product_call(self, layer: Layer, level: int, x: Floats, out: Floats, common: Mapping[str, Any]) -> Call:
        """The sparse product, or the dense one where the plan says so."""
        product, plan = self.products[layer.name], self.plans[layer.name]
        if level in plan.dense_levels:
            key, weights = (layer.name, level), self.network.weights[layer.name]
            if key not in self._dense:
                self._dense[key] = dense_for(product, weights, level, dense=plan.dense, threads=self.threads)
            return call_of(self._dense[key], level, x=x, out=out, threads=self.threads, **common)
        works = self._works.setdefault(layer.name, [])
        works += [product.new_work() for _ in range(self.threads - len(works))]
        return product.call(x, out, level=level, works=works, **common)

    def written_by(self, layer: Layer) -> tuple[Layer, str | None]:
        """The layer whose output a convolution writes, its own or a sum's, and the tensor that it adds then."""
        total = next((t for t in self.network.layers if t.name == self._fused.get(layer.name)), None)
        if total is None:
            return layer, None
        return total, next(s for s in total.sources if s != layer.name)

    @property
    def rows(self) -> Mapping[str, RowProduct | PlaneRows]:
        """The products of fully connected layers."""
        return self._rows

    def formats(self, level: Level) -> dict[str, str]:
        """What each weighted layer's operands are rounded to at ``level``, "float32" where they are not."""
        plans = self.plans | {name: row.plan for name, row in self._rows.items() if isinstance(row, PlaneRows)}
        levels = self.levels(level)
        return {name: plans[name].format(one) if name in plans else "float32" for name, one in levels.items()}

    def _linear(self, layer: Layer, level: int) -> list[Call]:
        """A fully connected layer: its input's values in channel order, the product, its outputs in planes."""
        row, vectors = self._rows[layer.name], _vectors(layer)
        x, out = self.tensor(layer.sources[0]), self.tensor(layer.name)
        inputs, outputs = (y[:, None] if y.ndim == 1 else y for y in (row.inputs, row.outputs))
        gather = _copying(x, inputs.T.reshape(x.shape) if vectors == 1 else inputs.T[..., None])
        scatter = _copying(outputs.T.reshape(out.shape) if vectors == 1 else outputs.T[..., None], out)
        return [gather, *row.calls(level, self.bias(layer, level), clamp_of(layer.activation)), scatter]

    def bias(self, layer: Layer, level: int) -> Floats:
        """float32 (rows,); zeros where the network has none."""
        biases = self.network.biases.get(layer.name)
        return np.zeros(layer.K, np.float32) if biases is None else np.ascontiguousarray(biases[level], np.float32)

    def _concatenate(self, layer: Layer) -> list[Call]:
        out, masks, first = self._buffers[layer.name], self._layouts[layer.name].masks(1), 0
        steps: list[Call] = []
        for name in layer.sources:
            layout = self._layouts[name]
            place = out[first * layout.stride :]
            steps.append(
                call(packing_kernel.copy, layout.channels, self._buffers[name], place, layout.dimensions, masks)
            )
            first += layout.channels
        return steps

    def _gate(self, name: str, activation: str) -> list[Call]:
        if activation not in _GATES:
            return []
        layout = self._layouts[name]
        planes = (self._buffers[name], layout.dimensions, layout.masks(1))
        return [call(gate_kernel.gate, layout.channels, *planes, _GATES[activation])]

    def _packed(self) -> dict[str, PlaneLayout]:
        """Per layer that copies its input to phase planes their layout."""
        convolutions = {name: product.planes for name, product in self.products.items() if product.packs}
        return convolutions | {name: one.planes for name, one in self._poolings.items() if one.planes is not None}


def unsupported(network: Network) -> list[str]:
    """What keeps a network from running here, one text per layer; such networks run in ``executor.Executor``."""
    problems = [] if COMPILES else ["the compiler is switched off (NUMBA_DISABLE_JIT)"]
    for layer in network.layers:
        joins = layer.op in ("add", "mul")
        if joins and (len(layer.sources) != 2 or (layer.op == "mul" and layer.sources[0] == layer.sources[1])):
            problems.append(f"layer '{layer.name}': '{layer.op}' of {len(layer.sources)} tensors")
        elif layer.op in ("mul", "concat", "maxpool", "avgpool") and layer.activation in _CLAMPS:
            problems.append(f"layer '{layer.name}': '{layer.activation}' after '{layer.op}'")
    return problems


def _copying(source: Floats, target: Floats) -> Call:
    """The call that copies a tensor to a view of memory in another order, both (channels, height, width)."""
    (x, source_strides), (out, target_strides) = ((array[:1, 0, 0], array.strides) for array in (source, target))
    return call(packing_kernel.copy_cells, source.shape[0], x, source_strides, out, target_strides, source.shape)


def _same_axes(shape: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """True unless axes differ, as of an image with its channels last; either may be flat, axes of length 1 do not count."""
    left, right = ([size for size in each if size != 1] for each in (shape, needed))
    return left == right or min(len(left), len(right)) <= 1


def _vectors(layer: Layer) -> int:
    """Vectors that a fully connected layer multiplies; 1 for any other."""
    return layer.gemm.m if layer.op == "linear" and layer.gemm is not None else 1


def clamp_of(activation: str) -> tuple[np.float32, np.float32]:
    """Least and largest output of an activation that a product's store applies; unbounded for every other one."""
    low, high = _CLAMPS.get(activation, (-np.inf, np.inf))
    return np.float32(low), np.float32(high)
