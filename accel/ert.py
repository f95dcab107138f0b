"""Importer of Accelergy energy reference tables (ERT): what one action of a component costs, from someone else's estimator.

Three forms are read: ``ERT.yaml`` (one entry per action and argument combination), ``ERT_summary.yaml`` (averages), and a
CSV with the columns ``file, component, action, energy_pJ, arguments`` that gathers many tables. Where an action is listed
for several argument combinations its energy is their mean, which is the ``average_energy`` of the summary form.
Format: Accelergy 0.3 and 0.4 (Wu, Emer, Sze, ICCAD 2019). A design file names such a table where it states an energy
(:mod:`accel.unit_energy`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from ..workloads.errors import InputError, unknown_name
from ..workloads.text_files import read_rows
from .yaml_errors import load_plain

_CSV_COLUMNS = ("file", "component", "action", "energy_pJ")
#: Tables list every argument combination of every component, so they may be long.
_MOST_ENTRIES = 200_000


@dataclass(frozen=True)
class EnergyTable:
    """Picojoules per action: ``components[component][action]``; ``origin`` says where the table came from."""

    origin: str
    components: Mapping[str, Mapping[str, float]]

    def energy_pj(self, component: str, action: str) -> float:
        """Energy of one action. A component may be named by the end of its path ('SMEM' for 'system.SM.SMEM').

        Raises
        ------
        InputError
            for a component or action that the table does not have, or an ending that several components share.
        """
        actions = self.components[self.component(component)]
        if action not in actions:
            raise unknown_name(f"action of '{component}' in {self.origin}", action, actions)
        return actions[action]

    def component(self, name: str) -> str:
        """Full name of the component that is called, or ends in, ``name``; array ranges such as [0..3] may be left out."""
        if name in self.components:
            return name
        ends = [full for full in self.components if f".{_without_ranges(full)}".endswith(f".{_without_ranges(name)}")]
        if not ends:
            raise unknown_name(f"component of {self.origin}", name, self.components)
        if len(ends) > 1:
            raise InputError(f"{self.origin}: '{name}' may mean {', '.join(sorted(ends))}; give the full name")
        return ends[0]


@dataclass
class ErtFiles:
    """The tables that one design file names: each is read once, and which of their actions are used is kept.

    ``folder``: where relative paths start.
    """

    folder: Path
    _tables: dict[str, EnergyTable] = field(default_factory=dict)
    _used: dict[str, set[tuple[str, str]]] = field(default_factory=dict)

    def lookup(self, file: str, entry: str) -> tuple[float, str]:
        """Energy (pJ) of ``COMPONENT.ACTION`` in a table, and the full name of the entry.

        Raises
        ------
        InputError
            for an unreadable table, or an entry that is no name of a component and one of its actions.
        """
        if file not in self._tables:
            self._tables[file], self._used[file] = read_ert(self.folder / file), set()
        component, _, action = entry.rpartition(".")
        if not component:
            raise InputError(f"'{entry}' is not COMPONENT.ACTION, such as MAC.compute")
        table = self._tables[file]
        full, energy = table.component(component), table.energy_pj(component, action)
        self._used[file].add((full, action))
        return energy, f"{full}.{action}"

    def unused(self) -> dict[str, list[str]]:
        """Table -> 'component (actions)' of all that no value of the design uses."""
        found = {}
        for file, table in self._tables.items():
            left = {
                component: [action for action in actions if (component, action) not in self._used[file]]
                for component, actions in table.components.items()
            }
            found[file] = [f"{component} ({', '.join(actions)})" for component, actions in left.items() if actions]
        return found


def _without_ranges(component: str) -> str:
    return re.sub(r"\[[^\]]*\]", "", component)


def read_ert(path: Path) -> EnergyTable:
    """An ``ERT.yaml`` or ``ERT_summary.yaml`` file.

    Raises
    ------
    InputError
        if the file is missing, no YAML, has a key or component twice, or is not a table of that form: what was found and
        where.
    """
    document = load_plain(path, most_entries=_MOST_ENTRIES)
    return EnergyTable(path.name, _gather(_yaml_entries(document, path), origin=str(path)))


def read_ert_csv(path: Path) -> dict[str, EnergyTable]:
    """All tables of a CSV file, by the name in its ``file`` column. Lines that start with ``#`` are comments."""
    entries: dict[str, list[tuple[str, str, float]]] = {}
    for row in read_rows(path, _CSV_COLUMNS):
        if row["energy_pJ"] == "":  # unset: asking for it is an error, never 0
            continue
        where = f"{path}, {row['component']} {row['action']}"
        entries.setdefault(row["file"], []).append((row["component"], row["action"], _energy(row["energy_pJ"], where)))
    if not entries:
        raise InputError(f"{path}: no row")
    return {name: EnergyTable(name, _gather(table, origin=name)) for name, table in entries.items()}


def _gather(entries: Iterable[tuple[str, str, float]], *, origin: str) -> dict[str, dict[str, float]]:
    """Mean energy per component and action."""
    found: dict[str, dict[str, list[float]]] = {}
    for component, action, energy in entries:
        found.setdefault(component, {}).setdefault(action, []).append(energy)
    if not found:
        raise InputError(f"{origin}: the energy reference table is empty")
    return {
        component: {action: sum(values) / len(values) for action, values in actions.items()}
        for component, actions in found.items()
    }


def _yaml_entries(document: Any, path: Path) -> Iterator[tuple[str, str, float]]:
    seen: set[str] = set()
    for number, table in enumerate(_tables(document, path)):
        if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
            raise InputError(f"{path}: component {number} has no name")
        if table["name"] in seen:
            raise InputError(f"{path}: component '{table['name']}' is listed twice")
        seen.add(table["name"])
        actions = table.get("actions")
        if not isinstance(actions, list):
            raise InputError(f"{path}: component '{table['name']}' has no list of actions")
        for action in actions:
            if not isinstance(action, Mapping) or not isinstance(action.get("name"), str):
                raise InputError(f"{path}: component '{table['name']}' has an action without a name")
            where = f"{path}, {table['name']} {action['name']}"
            yield table["name"], action["name"], _energy(action.get("energy", action.get("average_energy")), where)


def _tables(document: Any, path: Path) -> list[Any]:
    """The list of components of either YAML form."""
    for root, key in (("ERT", "tables"), ("ERT_summary", "table_summary")):
        if isinstance(document, Mapping) and root in document:
            tables = document[root].get(key) if isinstance(document[root], Mapping) else None
            if not isinstance(tables, list):
                raise InputError(f"{path}: {root} has no list '{key}'")
            return tables
    raise InputError(f"{path}: not an energy reference table; expected a mapping with 'ERT' or 'ERT_summary'")


def _energy(value: Any, where: str) -> float:
    try:
        energy = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: energy '{value}' is not a number") from None
    if not isfinite(energy) or energy < 0:
        raise InputError(f"{where}: energy {value} must be a finite number of picojoules, at least 0")
    return energy
