"""Executing networks on the CPU, at any sparsity level, from one stored set of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...workloads.network import Network
    from .observations import ActivationCounts, Deviation, Latency, SelfCheck
    from .simd.network import PlaneNetwork
    from .store import Level


class NetworkExecutor(Protocol):
    """What both executors do. ``inputs``: images (N, C, H, W), or what the network's graph reads.

    Every method raises InputError for inputs and levels that do not fit.
    """

    @property
    def planes(self) -> PlaneNetwork | None:
        """What runs single inferences, and batches of networks without a graph; None where there is no kernel for a layer."""
        ...

    @property
    def allow(self) -> tuple[str, ...]:
        """Number formats that layers may be rounded to; empty: all is float32."""
        ...

    @property
    def single_image_notes(self) -> tuple[str, ...]:
        """Why single inferences do not run on planes; empty if they do."""
        ...

    def run(self, inputs: Any, /, level: Level) -> NDArray[np.float32]:
        """Outputs, (N, elements)."""
        ...

    def accuracy(
        self,
        inputs: Any,
        /,
        labels: NDArray[np.integer],
        level: Level,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> float:
        """Fraction of the labels that are the largest output."""
        ...

    def measure(self, inputs: Any, /, level: Level, *, repeats: int = 100) -> Latency:
        """Latency of single inferences."""
        ...

    def capture(self, inputs: Any, /, level: Level) -> dict[str, ActivationCounts]:
        """Non-zeros of each weighted layer's input."""
        ...

    def macs(self, level: Level) -> dict[str, int]:
        """Exact multiply-accumulates of one inference."""
        ...

    def check(self, inputs: Any, /, level: Level) -> SelfCheck:
        """Distance from a dense float64 reference."""
        ...

    def deviation(self, inputs: Any, /, level: Level) -> Deviation:
        """Distance of the outputs from float32's; none where no format is allowed."""
        ...


def executor_for(network: Network, *, threads: int = 1, allow: Iterable[str] = ()) -> NetworkExecutor:
    """The executor that runs ``network``: operator by operator where it carries a graph, else layer by layer.

    ``allow``: reduced formats, "bfloat16" or "float16", that layers may run in. All images then run on planes, a graph's on
    one thread, so that accuracy is that of what latency is measured with.

    Raises
    ------
    InputError
        for networks without weight values, layers or operators that cannot be executed, and with ``allow`` for a format that
        does not exist and a network that does not run on planes.
    """
    if network.graph is not None:
        from .graph_executor import GraphExecutor

        return GraphExecutor(network, threads=threads, allow=allow)
    from .executor import Executor

    return Executor(network, threads=threads, allow=allow)
