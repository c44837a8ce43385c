"""Whose names weights have: `--from` and `--to`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmdit_cli.errors import UserError

if TYPE_CHECKING:
    from mmdit.layouts.layout import Layout
    from mmdit.options import ModelOptions
    from mmdit.weights.reader import WeightFiles

LayoutName = Literal["mmdit", "diffusers", "stability", "flux", "mmaudio", "lucidrains"]
LAYOUTS = "mmdit, diffusers, stability, flux, mmaudio or lucidrains"


def layout_of(name: str | None, given: Path | WeightFiles, config: ModelOptions) -> str:
    """The layout that `--from` names, or else that of the names in a file; ours where they are of none that is known.

    Raises:
        mmdit.weights.saved_model.CheckpointError: the file can't be read.
    """
    from mmdit.layouts.recognition import recognize_layout
    from mmdit.weights.reader import WeightFiles

    if name is not None:
        return name
    files = given if isinstance(given, WeightFiles) else WeightFiles(given)
    return recognize_layout(files.tensors, config)[0] or "mmdit"


def find_layout(option: str, name: str, config: ModelOptions) -> Layout:
    """Raises UserError where the layout has no place for the model."""
    from mmdit.layouts.layout import Layout, LayoutError

    try:
        return Layout(name, config)
    except LayoutError as error:
        raise UserError(f"{option} {name}: {error}") from None
