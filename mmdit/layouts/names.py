"""What a layout calls the weights of a model, told from its lines alone: no model is built.

A stem is a name without `.weight` or `.bias`, a pattern a stem with `#` for each number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache

from mmdit.layouts.language import LayoutError
from mmdit.layouts.registry import LAYOUTS, lines_for
from mmdit.options import ModelOptions

__all__ = ["KNOWN_PREFIXES", "first_blocks", "is_prefix", "pattern", "prefixes_of", "stem"]

# what programs put before every name: ComfyUI and all-in-one files, trainers, DistributedDataParallel, torch.compile
KNOWN_PREFIXES = (
    *("model.diffusion_model.", "diffusion_model.", "transformer.", "module.", "_orig_mod.", "model.", "net."),
)
MOST_PREFIXES = 4  # one before the other
_NUMBER = re.compile(r"\.\d+(?=\.|$)")
_NAME = re.compile(r"[A-Za-z_][\w.-]*(?![\w.-]*\()")
_LATER_BLOCK = re.compile(r"\btransformer\.(single_)?blocks\.[1-9]")

Sides = list[tuple[list[str], list[str]]]


def stem(name: str) -> str:
    """A tensor's name without `.weight` or `.bias`."""
    return name.removesuffix(".weight").removesuffix(".bias")


@cache
def pattern(stem: str) -> str:
    """A stem with `#` for each number."""
    return _NUMBER.sub(".#", stem)


def first_blocks(layout: str, config: ModelOptions) -> Sides:
    """The stems on the left (ours) and on the right (theirs) of a layout's lines, of blocks those of the first alone.

    Raises:
        LayoutError: the layout has no place for the model; or our own is asked for, and no other has, for we have no
            lines of our own.
    """
    if layout != "mmdit":
        return [_sides(line) for line in lines_for(layout, config) if not _LATER_BLOCK.search(line)]
    for other in LAYOUTS[1:]:
        try:
            return [(left, left) for left, _ in first_blocks(other, config)]
        except LayoutError:
            continue
    raise LayoutError("no layout has lines for this model")


def _sides(line: str) -> tuple[list[str], list[str]]:
    left, right = (_NAME.findall(re.sub(r"\[[^\]]*\]", "", side)) for side in line.split(" = "))
    return left, right


def prefixes_of(names: Iterable[str]) -> list[str]:
    """What may stand before all names of a file: nothing, and whatever known prefixes its names begin with."""
    found = {"": None}
    for name in names:
        found |= dict.fromkeys(_peeled(name))
    return list(found)


def is_prefix(text: str) -> bool:
    """Whether this is nothing but known prefixes."""
    return text == "" or text in _peeled(text)


def _peeled(name: str) -> Iterator[str]:
    prefix = ""
    for _ in range(MOST_PREFIXES):
        known = next((each for each in KNOWN_PREFIXES if name.startswith(each, len(prefix))), None)
        if known is None:
            return
        prefix += known
        yield prefix
