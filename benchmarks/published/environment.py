"""A virtual environment with the published package."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.paths import CACHE, ROOT
from benchmarks.published.settings import VERSION

PACKAGES = (f"mmdit=={VERSION}", "torch", "numpy", "safetensors")  # constraints.txt decides the other versions


PUBLISHED = CACHE / f"published-{VERSION}"


def make_environment(folder: Path = PUBLISHED) -> Path:
    """Its python. The environment is made anew where missing, unfinished or outdated.

    Raises:
        OSError: the folder holds something else.
        subprocess.CalledProcessError: the packages can't be installed.
    """
    constraints = ROOT / "constraints.txt"
    wanted = hashlib.sha256(constraints.read_bytes() + repr((PACKAGES, sys.version)).encode()).hexdigest()
    done = folder / "complete"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if done.is_file() and done.read_text() == wanted and python.exists():
        return python
    if folder.exists() and not (folder / "pyvenv.cfg").is_file() and any(folder.iterdir()):
        raise OSError(f"{folder} is no virtual environment; name another folder")
    print(f"making an environment in {folder} (some minutes, once)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), *PACKAGES]
    subprocess.run(install, check=True)
    done.write_text(wanted)
    return python
