"""Other implementations' names for our weights, and the way there and back."""

from mmdit.layouts.layout import LAYOUTS, Layout, LayoutError, from_layout, to_layout

__all__ = ["LAYOUTS", "Layout", "LayoutError", "from_layout", "to_layout"]
