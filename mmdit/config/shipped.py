"""The configs that come with the package, which are found by their names wherever it is installed."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

__all__ = ["find_shipped", "is_shipped", "shipped_configs"]


@cache
def shipped_configs() -> dict[str, Path]:
    """Every shipped config's file by its name: `sd3-medium`, `ablations/qk-norm/qk-norm`.

    A wheel holds them below the package, a source tree (and an editable install of it) beside it.
    """
    here = Path(__file__).parent.parent  # the package
    folder = next((at for at in (here / "configs", here.parent / "configs") if at.is_dir()), None)
    if folder is None:
        return {}
    found = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.relative_to(folder).parts), path.with_suffix("")))
    return {path.relative_to(folder).as_posix().removesuffix(".yaml"): path for path in found}


def find_shipped(name: str | Path, folder: str = "") -> Path | None:
    """The file of a shipped config by its name; None where there is none, or where a file of that name is in the
    folder, by default the current one."""
    found, path = shipped_configs().get(Path(name).as_posix()), os.path.join(folder, name)
    taken = found is not None and os.path.lexists(path) and not os.path.isdir(path)
    return None if taken else found


def is_shipped(name: str | Path) -> bool:
    """Whether this is a shipped config, by its name or by its path."""
    known = {os.path.realpath(path) for path in shipped_configs().values()}
    return find_shipped(name) is not None or os.path.realpath(name) in known
