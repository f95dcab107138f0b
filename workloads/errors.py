"""The one error class that means "the user's input is wrong" and its helpers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """Input that cannot be used: a file, a name, a shape. Never a bug of ours.

    The command line prints each problem on a line of its own and exits with 2; no traceback.

    Parameters
    ----------
    problems : one message, or all messages of one input (a broken file lists every mistake at once).
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


def unknown_name(kind: str, found: str, allowed: Iterable[str]) -> InputError:
    """Error for a name that is not in a registry: what was found, the nearest match, what is allowed."""
    names = sorted(allowed)
    close = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    return InputError(f"unknown {kind} '{found}'{hint} Allowed: {', '.join(names)}")
