"""Options that several commands share, one definition each, and the designs and workload they select."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from ..accel.design import Design
    from .file_sources import FileOptions
    from .sources import Workload

Model = Annotated[
    str,
    typer.Argument(
        help="`fashion` or `digits` (bundled, trained), a built-in network such as `resnet50`, or a .csv, .json (from "
        "PyTorch, see `nestling exporter`), .onnx or .safetensors file."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Parameter of a built-in network, such as image=160; repeat for several."),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", help="Shape an ONNX file leaves open: INPUT=1,3,224,224 or DIMENSION=128; repeat."),
]
Accelerators = Annotated[
    list[str] | None,
    typer.Option("--accel", "-a", help="Design name, .yaml file or `all`; repeat for several."),
]
Densities = Annotated[
    str | None,
    typer.Option("--levels", "-l", help="Densities of synthetic levels, densest first, such as 0.5,0.25,0.13."),
]
Dram = Annotated[
    str | None,
    typer.Option(
        "--dram", help="DRAM device (name or .yaml file) in place of every design's own; `nestling dram --list`."
    ),
]
Node = Annotated[
    float | None,
    typer.Option(
        "--node",
        help="Scale every design's on-chip energies to this node, 7 to 90 nm; clocks, voltages and DRAM stay.",
    ),
]
Sparsify = Annotated[
    list[str] | None,
    typer.Option(
        "--sparsify",
        help="Make the levels of --levels from the densest weights by this method, such as magnitude, nm, obc or "
        "smartdeal; `trained` keeps the network's own. Repeat to compare methods.",
    ),
]
Ablate = Annotated[
    str | None,
    typer.Option(
        "--ablate",
        help="Compare this design (such as smartdeal) with itself, each switch of its array turned over in turn; the "
        "network is put into SmartDeal form.",
    ),
]
Equalise = Annotated[
    bool,
    typer.Option(
        "--equalise",
        help="Compare SmartDeal with DianNao, SCNN, Cambricon-X and Bit-Pragmatic at equal multipliers, SRAM, unit energies "
        "and DRAM; the network is put into SmartDeal form.",
    ),
]
Only = Annotated[
    list[int] | None, typer.Option("--level", help="Run only this level (0 = densest); repeat for several.")
]
Point = Annotated[str | None, typer.Option("--point", help="Operating point of the design; default: the fastest.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for report.html, result.json and tables.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of tables.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of synthetic patterns.", min=0)]
Engine = Annotated[
    Literal["recurrence", "simpy"], typer.Option("--engine", help="Compiled recurrence or SimPy processes.")
]
Density = Annotated[
    Literal["actual", "uniform", "structured"],
    typer.Option("--density", help="Masks as they are, or as a density model has them."),
]
Execute = Annotated[bool, typer.Option("--execute/--no-execute", help="Run the network on the CPU.")]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        help="Number format that the CPU may round to where that is faster: bfloat16 or float16; repeat for both. The error "
        "against float32 is reported.",
    ),
]
Repeats = Annotated[int, typer.Option("--repeats", help="Repeats of the CPU latency measurement.", min=1)]
Objective = Annotated[
    Literal["energy", "latency", "edp"] | None,
    typer.Option("--objective", help="What the tiling search minimises; default: the design file's, else energy."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Layers worked on at once; default: every processor.", min=1)
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        "--calibrate",
        help="Real inputs for activation zeros and bits: .npz (an array per input, or `images`), .npy, or a folder.",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        help=".npz with `images` and `labels`: uint8, or for an ONNX file as its input reads them.",
    ),
]

PaddingChoice = Annotated[
    Literal["same", "valid", "file"] | None,
    typer.Option("--padding", help="SCALE-Sim topology: its sizes need padding, need none, or include it."),
]
Groups = Annotated[
    list[str] | None,
    typer.Option("--groups", help="SCALE-Sim topology: `depthwise`, `none`, or NAME=GROUPS; repeat for several."),
]
LayerTable = Annotated[
    Path | None, typer.Option("--table", help="Layer table of a .safetensors file with weights by name.")
]


def file_options(padding: str | None, groups: list[str] | None, table: Path | None) -> FileOptions:
    """What files of other tools leave open, as ``--padding``, ``--groups`` and ``--table`` state it."""
    from .file_sources import FileOptions

    return FileOptions(padding=padding, groups=groups or (), table=table)


def chosen_designs(
    names: list[str] | None, *, dram: str | None = None, objective: str | None = None, node: float | None = None
) -> list[Design]:
    """The designs of ``--accel`` (`all` = every built-in one), changed as ``--dram``, ``--objective`` and ``--node`` say."""
    from ..accel.design import DESIGNS, load_design
    from .sources import DEFAULT_DESIGNS

    chosen = list(names or DEFAULT_DESIGNS)
    designs = [load_design(name) for entry in chosen for name in (DESIGNS if entry == "all" else (entry,))]
    return _changed(designs, dram=dram, objective=objective, node=node)


def compared_designs(
    names: list[str] | None,
    ablate: str | None,
    *,
    equalise: bool,
    dram: str | None = None,
    objective: str | None = None,
    node: float | None = None,
) -> list[Design]:
    """The designs of a comparison: those of ``--accel`` (all by default), of ``--ablate`` or of ``--equalise``, changed as
    in :func:`chosen_designs`. InputError if more than one of the three is given."""
    from ..accel.ablation import ablations
    from ..accel.design import load_design
    from ..accel.equalised import equalised
    from ..workloads.errors import InputError

    if (names is not None) + (ablate is not None) + equalise > 1:
        raise InputError("--accel, --ablate and --equalise are three comparisons; give one of them")
    if ablate is None and not equalise:
        return chosen_designs(names or ["all"], dram=dram, objective=objective, node=node)
    designs = equalised() if ablate is None else ablations(load_design(ablate))
    return _changed(designs, dram=dram, objective=objective, node=node)


def _changed(designs: list[Design], *, dram: str | None, objective: str | None, node: float | None) -> list[Design]:
    if dram is not None:
        designs = [design.with_dram(dram) for design in designs]
    if objective is not None:
        designs = [design.with_objective(objective) for design in designs]
    return designs if node is None else [design.with_node(node) for design in designs]


def chosen_workload(
    model: str,
    settings: list[str] | None,
    *,
    levels: str | None,
    images: Path | None = None,
    seed: int,
    draw: bool = True,
    shapes: list[str] | None = None,
    calibrate: Path | None = None,
    files: FileOptions | None = None,
) -> Workload:
    """The network of MODEL with its options (``load_workload``); ``draw=False`` leaves synthetic masks for later."""
    from .progress import parse_densities
    from .sources import load_workload, parse_parameters, parse_shapes

    densities = None if levels is None else parse_densities(levels)
    workload = load_workload(
        model,
        parameters=parse_parameters(settings or []),
        densities=densities,
        images=images,
        seed=seed,
        draw=draw,
        shapes=parse_shapes(shapes or []),
        options=files,
    )
    if calibrate is None:
        return workload
    from .calibration import calibrated

    return calibrated(workload, calibrate)
