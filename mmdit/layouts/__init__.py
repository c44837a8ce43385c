"""Other implementations' names for our weights, and the way there and back."""

from mmdit.layouts.language import LayoutError
from mmdit.layouts.layout import Layout, from_layout, to_layout
from mmdit.layouts.registry import LAYOUTS

__all__ = ["LAYOUTS", "Layout", "LayoutError", "from_layout", "to_layout"]
