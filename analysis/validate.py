"""`nestling validate`: recompute other people's numbers and say how far we are."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..workloads.errors import InputError, unknown_name
from .suites.suite import Check, Suite, Summary, failures, summarise

#: The product's own copy of the reference data, with provenance per folder.
REFERENCE = Path(__file__).parent / "reference"
#: Suite name -> module under ``analysis/suites`` that defines ``SUITE``; loaded when it is asked for.
SUITES = {
    "dram": "dram",
    "eyeriss": "eyeriss",
    "eyeriss-v2": "eyeriss_v2",
    "nm-pipeline": "nm_pipeline",
    "pragmatic": "pragmatic",
    "scnn": "scnn",
    "sigma": "sigma",
    "smartdeal": "smartdeal",
    "sparse-systolic": "sparse_systolic",
    "stonne-os": "stonne_os",
    "systolic": "systolic",
    "tensor-core": "tensor_core",
    "zigzag": "zigzag",
}


@dataclass(frozen=True)
class Outcome:
    """A suite's checks, their statistics, and what of its bars they miss."""

    suite: Suite
    checks: Sequence[Check]
    summary: Summary
    missed: Sequence[str]

    @property
    def passed(self) -> bool:
        return not self.missed

    @property
    def demands(self) -> str:
        """The bars that ask for something, without those that only report."""
        return "; ".join(text for bar in self.suite.bars if not (text := str(bar)).endswith("reported"))

    def to_json(self) -> dict[str, Any]:
        """The machine-readable contract of DESIGN.md; errors as fractions."""
        return {
            "suite": self.suite.name,
            "rows": self.summary.rows,
            "exact": self.summary.exact,
            "mean_error": self.summary.mean_error,
            "p95_error": self.summary.p95_error,
            "max_error": self.summary.max_error,
            "bar": "; ".join(map(str, self.suite.bars)),
            "passed": self.passed,
            "missed": list(self.missed),
            "groups": [
                {"group": group, "quantity": quantity, **vars(summary)}
                for (group, quantity), summary in self.by_group().items()
            ],
        }

    def by_group(self) -> dict[tuple[str, str], Summary]:
        """Statistics per (group, quantity), in order of first appearance."""
        gathered: dict[tuple[str, str], list[Check]] = {}
        for check in self.checks:
            gathered.setdefault((check.group, check.quantity), []).append(check)
        return {key: summarise(checks) for key, checks in gathered.items()}


def load_suite(name: str) -> Suite:
    """The suite of that name; InputError with the nearest match if there is none."""
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    suite: Suite = importlib.import_module(f".suites.{SUITES[name]}", __package__).SUITE
    return suite


def run_suite(name: str, reference: Path = REFERENCE) -> Outcome:
    """Recompute every row of one suite found under ``reference``.

    Raises
    ------
    InputError
        for an unknown suite or reference data that cannot be read.
    """
    suite = load_suite(name)
    if not reference.is_dir():
        raise InputError(f"--reference {reference}: no such folder")
    checks = list(suite.checks(reference))
    missed = [text for bar in suite.bars for text in failures(bar, checks)]
    return Outcome(suite, checks, summarise(checks), missed)
