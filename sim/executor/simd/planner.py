"""The planner: which kernel runs each convolution, from what this machine measured, or a prior where it did not.

Measured times are kept in a file of the user's cache folder, named by what they depend on: processor, its features, the
versions of NumPy, Numba and llvmlite, and the source of the kernels. A new version measures anew; nothing is stale.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ....workloads.layers import CONV_OPS, Layer
from ....workloads.nesting import NestedWeights
from ....workloads.network import Network
from ..plan import make_plan
from .arrangement import layouts
from .dense_product import DenseProduct
from .planes import PlaneLayout
from .prior import candidates, dense_candidates, likely_plan
from .product import Choice, LayerPlan, Product
from .structure import structure_of
from .team import Call
from .vectors_kernel import MACHINE

#: Runs of every candidate in the first round, and of the promising ones in the second; the least time counts.
REPEATS = (2, 6)
#: Candidates slower than this in the first round are given up.
PROMISING = 1.25
#: Called with (layers measured, layers in total).
Progress = Callable[[int, int], None]


class Planner:
    """Chooses kernels. ``choose`` is a ``network.Chooser``; what was never measured gets the prior's choice.

    Parameters
    ----------
    folder : where measured times are kept; default: the user's cache folder. It need not be writable.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = (folder or cache_folder()) / f"executor-{environment_key()}.json"
        self._plans = _read(self._file)

    @property
    def measured(self) -> int:
        """Layers that have a measured plan."""
        return len(self._plans)

    def choose(self, layer: Layer, weights: NestedWeights, source: PlaneLayout, target: PlaneLayout) -> LayerPlan:
        """The measured plan of a layer, or the likely one."""
        known = self._plans.get(layer_key(layer, weights, source, target))
        return likely_plan(layer, weights, source, target) if known is None else known

    def tune(self, network: Network, progress: Progress = lambda done, total: None) -> bool:
        """Measure every convolution of a network that has no measured plan yet, one thread, and keep the plans.

        Returns False if they could not be written (they hold for this object all the same).
        """
        found = layouts(network, make_plan(network).input_shape)
        todo: dict[str, Layer] = {}
        for layer in network.layers:
            if layer.op in CONV_OPS:
                key = self._key(network, layer, found)
                if key not in self._plans:
                    todo.setdefault(key, layer)
        for done, (key, layer) in enumerate(todo.items(), start=1):
            source, target = found[layer.sources[0]], found[layer.name]
            self._plans[key] = measured_plan(layer, network.weights[layer.name], source, target)
            progress(done, len(todo))
        return not todo or _write(self._file, self._plans)

    def _key(self, network: Network, layer: Layer, found: Mapping[str, PlaneLayout]) -> str:
        return layer_key(layer, network.weights[layer.name], found[layer.sources[0]], found[layer.name])


def measured_plan(layer: Layer, weights: NestedWeights, source: PlaneLayout, target: PlaneLayout) -> LayerPlan:
    """Run the candidates on random inputs. All levels share one store, so the least geometric mean over the levels wins;
    a level whose dense product is faster still is run densely."""
    random = np.random.default_rng(0)
    levels = range(weights.levels)
    products: dict[Choice, Product] = {}
    calls: dict[tuple[Choice | int, int], Call] = {}
    bias = np.zeros(layer.K, np.float32)
    x = out = None
    for choice in candidates(layer, target, structure_of(layer, weights)):
        product = products[choice] = Product(layer, weights, source, target, choice=choice)
        if x is None or out is None:
            x, out = product.planes.new(), target.new()
            x[:] = random.standard_normal(x.size)
        works = [product.new_work()]
        for level in levels:
            calls[choice, level] = product.call(x, out, level=level, bias=bias, works=works)
    assert x is not None
    assert out is not None
    for vectors in dense_candidates(layer, target):
        dense = DenseProduct(next(iter(products.values())), weights, 0, vectors=vectors)
        calls[vectors, 0] = dense.call(x, out, bias=bias, works=[dense.new_work()])
    return _least(calls, weights.levels)


def _least(calls: Mapping[tuple[Choice | int, int], Call], levels: int) -> LayerPlan:
    times = {key: np.inf for key in calls}
    _measure(calls, times, REPEATS[0])
    sparse = _geometric_means(times, levels)
    best = min(sparse.values())
    fastest = min((t for (who, _), t in times.items() if isinstance(who, int)), default=np.inf)
    promising = {
        key: call
        for key, call in calls.items()
        if (isinstance(key[0], int) and times[key] <= PROMISING * fastest)
        or (not isinstance(key[0], int) and sparse[key[0]] <= PROMISING * best)
    }
    _measure(promising, times, REPEATS[1])
    sparse = _geometric_means(times, levels)
    choice = min(sparse, key=lambda one: sparse[one])
    dense = {who: t for (who, _), t in times.items() if isinstance(who, int)}
    if not dense:
        return LayerPlan(choice)
    vectors = min(dense, key=lambda one: dense[one])
    return LayerPlan(choice, vectors, tuple(x for x in range(levels) if times[choice, x] > dense[vectors]))


def _measure(
    calls: Mapping[tuple[Choice | int, int], Call], times: dict[tuple[Choice | int, int], float], repeats: int
) -> None:
    """Run all calls in turn, ``repeats`` times, and keep the least CPU time of each."""
    for _ in range(repeats):
        for key, call in calls.items():
            call.tasks[0] = 0
            start = time.thread_time()
            call.run(0)
            times[key] = min(times[key], time.thread_time() - start)


def _geometric_means(times: Mapping[tuple[Choice | int, int], float], levels: int) -> dict[Choice, float]:
    choices = dict.fromkeys(who for who, _ in times if not isinstance(who, int))
    return {c: float(np.exp(np.mean([np.log(times[c, x]) for x in range(levels)]))) for c in choices}


def layer_key(layer: Layer, weights: NestedWeights, source: PlaneLayout, target: PlaneLayout) -> str:
    """What a layer's time depends on: its sizes, its densities (to 1 %), its masks' structure, and the halos around it."""
    sizes = (layer.C, layer.K, layer.P, layer.Q, layer.R, layer.S, layer.stride, layer.padding, layer.dilation)
    rounded = [round(float(d), 2) for d in weights.densities]
    return json.dumps([*sizes, layer.groups, source.halo, target.halo, rounded, structure_of(layer, weights)])


def environment_key() -> str:
    """A short name of everything that times depend on beside the layer."""
    parts = (*MACHINE, *(version(name) for name in ("numpy", "numba", "llvmlite")), *_kernel_sources())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _kernel_sources() -> list[str]:
    folder = Path(__file__).parent
    return [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*kernel*.py"))]


def cache_folder() -> Path:
    """The user's cache folder of this program (XDG base directories; %LOCALAPPDATA% on Windows)."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", str(Path.home()))
    else:
        base = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return Path(base) / "nestling"


def _read(file: Path) -> dict[str, LayerPlan]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {key: LayerPlan(Choice(*plan[0]), int(plan[1]), tuple(plan[2])) for key, plan in content.items()}
    except (OSError, ValueError, TypeError, IndexError, AttributeError):
        return {}  # nothing measured, or a damaged file: it is written anew by the next tuning


def _write(file: Path, plans: Mapping[str, LayerPlan]) -> bool:
    """Replace the file as a whole, so that a reader never sees half of it."""
    part = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(plans), encoding="utf-8")
        part.replace(file)
    except OSError:
        return False
    return True


def layout_of(channels: int, height: int, width: int) -> PlaneLayout:
    """Planes without halos: what a product of plain matrices stands in."""
    return PlaneLayout(channels, height, width, 0)
