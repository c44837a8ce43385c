"""Whose names weights have: `--from` and `--to`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mmdit_cli.errors import UserError

if TYPE_CHECKING:
    from mmdit.layouts.layout import Layout
    from mmdit.options import ModelOptions

LayoutName = Literal["mmdit", "diffusers", "stability", "flux", "mmaudio", "lucidrains"]
LAYOUTS = "mmdit, diffusers, stability, flux, mmaudio or lucidrains"


def find_layout(option: str, name: str, config: ModelOptions) -> Layout:
    """Raises UserError where the layout has no place for the model."""
    from mmdit.layouts.layout import Layout, LayoutError

    try:
        return Layout(name, config)
    except LayoutError as error:
        raise UserError(f"{option} {name}: {error}") from None
