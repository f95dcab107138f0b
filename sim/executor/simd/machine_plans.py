"""How this machine runs a network's layers, as far as it was measured: kernels of convolutions, formats of row products."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ....workloads.network import Network
from .network import PlaneNetwork
from .planner import Planner, Progress
from .rows.row_planner import RowPlanner


class MachinePlans:
    """Both planners, with the files that they keep.

    Parameters
    ----------
    folder : where choices are kept; default: the user's cache folder. It need not be writable.
    allow : reduced formats that convolutions may have, see ``planner.Planner``.

    Raises
    ------
    InputError
        for a format that does not exist.
    """

    def __init__(self, folder: Path | None = None, *, allow: Iterable[str] = ()) -> None:
        self._kernels, self._rows = Planner(folder, allow), RowPlanner(folder)

    @property
    def measured(self) -> int:
        """Layers with a measured choice."""
        return self._kernels.measured + self._rows.measured

    def tune(self, network: Network, progress: Progress = lambda done, total: None) -> bool:
        """Measure every layer that has no measured choice yet, one thread; False if the choices could not be written.

        Not measured: fully connected layers of several vectors, which have one format up to 16 vectors and the likely
        kernel of a convolution beyond.
        """
        kernels_kept = self._kernels.tune(network, progress)
        return self._rows.tune(network, progress) and kernels_kept

    def network(self, network: Network, *, threads: int = 1) -> PlaneNetwork:
        """The network on planes with these choices, the likely ones where nothing was measured."""
        return PlaneNetwork(network, threads=threads, choose=self._kernels.choose, choose_rows=self._rows.choose)
