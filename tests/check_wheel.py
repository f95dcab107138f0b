"""Build the wheel and use it from outside the repository, in an environment of its own.

Run as ``python -m tests.check_wheel`` from the repository's root. The new environment borrows the installed dependencies,
so only nestling itself comes from the wheel.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

_PROGRAM = """
import nestling.analysis.cli, nestling.sim.simulate, nestling.workloads.bundled
from nestling.accel.design import DESIGNS, load_design
from nestling.workloads.zoo import MODELS, build
print(nestling.sim.simulate.__file__)
assert len([build(name) for name in MODELS]) == 25, list(MODELS)
assert [load_design(name).name for name in DESIGNS] == list(DESIGNS)
network, images, labels = nestling.workloads.bundled.load_bundled()
assert network.levels == 4 and len(images) == len(labels)
"""


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder / "dist"), str(root)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = (folder / "dist").glob("*.whl")
        venv.create(folder / "env", with_pip=True)
        python = folder / "env" / "bin" / "python"
        install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", wheel]
        subprocess.run(install, check=True)
        site = next((folder / "env" / "lib").glob("python*/site-packages"))
        # A plain path line adds the dependencies without running the editable install's import hook.
        (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
        used = subprocess.run([python, "-c", _PROGRAM], cwd=folder, check=True, capture_output=True, text=True).stdout
        if str(folder) not in used:
            print(f"the wheel was not used: {used}")  # noqa: T201 - this is a script
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
