"""The PyTorch exporter as one file: its modules one after the other, imports gathered at the top.

Users copy it into environments that have torch but not nestling. Reading the modules as text keeps torch out of this one.
"""

from __future__ import annotations

import ast
from pathlib import Path

_FOLDER = Path(__file__).parent / "torch_export"
#: Modules in an order in which each only needs the ones before it; the package itself comes last.
_MODULES = ("levels", "nodes", "walk", "windows", "products", "recurrence", "operators", "statistics", "__init__")


def exporter_source() -> str:
    """Source text of the stand-alone exporter: no import of nestling, ``export`` as its public function."""
    plain: set[str] = set()
    names: dict[str, set[str]] = {}
    bodies = []
    for module in _MODULES:
        text = (_FOLDER / f"{module}.py").read_text(encoding="utf-8")
        tree = ast.parse(text)
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in imports:
            if isinstance(node, ast.Import):
                plain |= {alias.name for alias in node.names}
            elif not node.level and node.module != "__future__":
                names.setdefault(str(node.module), set()).update(_written(alias) for alias in node.names)
        last = max(node.end_lineno or 0 for node in imports)
        bodies.append("\n".join(text.splitlines()[last:]).strip("\n"))
    text = (_FOLDER / "__init__.py").read_text(encoding="utf-8")
    head = [f'"""{ast.get_docstring(ast.parse(text))}\n"""', "", "from __future__ import annotations", ""]
    head += [f"import {name}" for name in sorted(plain)]
    head += [f"from {module} import {', '.join(sorted(found))}" for module, found in sorted(names.items())]
    return "\n".join(head) + "\n\n" + "\n\n\n".join(bodies) + "\n"


def _written(alias: ast.alias) -> str:
    return alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"
