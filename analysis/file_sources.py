"""MODEL as a file from elsewhere: an export from PyTorch, weights by name, a SCALE-Sim topology."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from ..traces.trace import Activations
from ..workloads.errors import InputError
from ..workloads.exported import Exported, load_exported
from ..workloads.network import Network
from ..workloads.scale_sim_table import Padding
from .sources import Workload


@dataclass(frozen=True)
class FileOptions:
    """What files leave open. ``padding`` and ``groups`` (texts of ``--groups``) for SCALE-Sim topologies, ``table`` (a layer
    table) for weights by name."""

    padding: str | None = None
    groups: Sequence[str] = ()
    table: Path | None = None

    def check(self, path: Path) -> None:
        """Raise InputError for options that do not belong to a file of this kind."""
        if self.table is not None and path.suffix != ".safetensors":
            raise InputError(f"'{path}': --table gives the layers of a .safetensors file")
        if (self.padding is not None or self.groups) and path.suffix != ".csv":
            raise InputError(f"'{path}': --padding and --groups are for SCALE-Sim topologies (.csv)")


def csv_network(path: Path, options: FileOptions) -> Network:
    """The network of a SCALE-Sim topology or of a layer table, told apart by the first line."""
    from ..workloads.scale_sim_table import is_scale_sim_table, load_scale_sim_table, parse_groups
    from ..workloads.tables import load_table

    if is_scale_sim_table(path):
        padding = cast(Padding | None, options.padding)  # checked by the reader
        return load_scale_sim_table(path, padding=padding, groups=parse_groups(options.groups))
    if options.padding is not None or options.groups:
        raise InputError(f"'{path}' is a layer table and states its padding and groups")
    return load_table(path)


def named_weights(path: Path, options: FileOptions) -> Network | None:
    """The network of a safetensors file with weights by name; None for nestling's own level-ordered file."""
    from ..workloads.keep_tensors import has_keep_layout, load_keep_file
    from ..workloads.tables import load_table
    from ..workloads.weights_file import tensor_names

    if options.table is None and not has_keep_layout(tensor_names(path)):
        return None
    return load_keep_file(path, table=None if options.table is None else load_table(options.table))


def exported_workload(path: Path, densities: Sequence[float] | None) -> Workload:
    """The workload of an export from PyTorch, with its images, labels and activation statistics.

    ``densities``: prune a network of one level further, by magnitude with one threshold per level.

    Raises
    ------
    InputError
        if the files are damaged, or ``densities`` are given for a network that has its own levels.
    """
    found = load_exported(path)
    network = found.network
    if densities is not None:
        if network.levels > 1:
            raise InputError(f"'{path}' has its own {network.levels} levels; --levels is for networks with one")
        from .pruned import pruned

        network = pruned(network, densities)
    return _executable(Workload(network, activations=_activations(found)), found)


def _activations(found: Exported) -> dict[str, Activations]:
    return {
        name: Activations(density=zeros.density, images=zeros.images, tap_nonzeros=zeros.tap_nonzeros)
        for name, zeros in found.activations.items()
    }


def _executable(workload: Workload, found: Exported) -> Workload:
    """The workload with the export's images, or with a note where the network cannot be run on them."""
    if found.activations:
        images = max(zeros.images for zeros in found.activations.values())
        counted = f"activation zeros of {len(found.activations)} layers counted in PyTorch on {images} real inputs"
    else:
        counted = ""
    if found.images is None:
        return workload.noting(counted) if counted else workload
    from ..sim.executor.plan import make_plan

    try:
        make_plan(workload.network)
    except InputError as error:
        refused = workload.noting(f"not executed, so no accuracy: {error.problems[0]}")
        return refused.noting(counted) if counted else refused
    return replace(workload, images=found.images, labels=found.labels)
