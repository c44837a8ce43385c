"""Whose names a file's tensors have: of the layouts, that whose lines, for one of the published networks or for the
config that is given, say most of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mmdit.layouts.language import LayoutError
from mmdit.layouts.names import pattern, prefixes_of, stem
from mmdit.layouts.published_names import patterns_of, published_names
from mmdit.layouts.registry import LAYOUTS
from mmdit.options import ModelOptions

__all__ = ["Recognized", "changed_by_lora", "recognize", "recognize_layout"]

LEAST = 0.5  # of a layout's names, that have to be there
_LORA = re.compile(r"\.(lora_(A|B|down|up)(\.\w+)?\.weight|lora\.(down|up)\.weight|(hada|lokr)_w\d(_[ab])?)$")
_LORA_PREFIX = re.compile(r"^(base_model\.model\.|lora_unet_|lora_transformer_|lycoris_)")

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Recognized:
    """Whose names these are.

    Attributes:
        layout: one of `mmdit.layouts.LAYOUTS`.
        prefix: what stands before them all.
        names: how many of the tensors have them.
        configs: by family of published networks, those that have so many of these names: the shipped configs, at
            whatever size. Where there are several, the names do not tell the family.
        patterns: of all of them.
        lora: whether the tensors are changes of the weights, and not the weights.
    """

    layout: str
    prefix: str
    names: int
    configs: Mapping[str, tuple[str, ...]]
    patterns: frozenset[str]
    lora: bool = False


def recognize(names: Iterable[str]) -> Recognized | None:
    """Whose names these are, of any published network; None where no layout has half of its own there.

    The names may be those of a LoRA, which has two tensors for each weight that it changes: then a single one tells it.
    """
    names = list(names)
    candidates = {key: patterns for key, (patterns, _) in published_names().items()}
    changed = changed_by_lora(names)
    if changed:
        flat = {key: frozenset(map(_flat, patterns)) for key, patterns in candidates.items()}
        found = _ranked(changed, flat, 0, lambda name: _flat(pattern(name)))
    else:
        found = _ranked(names, candidates, LEAST, pattern)
    if not found:
        return None
    count, _, prefix, (layout, _) = found[0]
    as_many = [key[1] for many, _, before, key in found if (many, before, key[0]) == (count, prefix, layout)]
    configs = {family: published_names()[layout, family][1] for family in as_many}
    patterns = frozenset[str]().union(*(published_names()[layout, family][0] for family in as_many))
    return Recognized(layout, prefix, count, configs, patterns, bool(changed))


def recognize_layout(names: Iterable[str], config: ModelOptions) -> tuple[str, str] | tuple[None, str]:
    """Of the layouts that hold a config's model, that which these names are of, and what stands before them all; None
    where none has half of its own there."""
    candidates, names = {}, list(names)
    for layout in LAYOUTS:
        try:
            candidates[layout] = patterns_of(layout, config)
        except LayoutError:
            continue
    found = _ranked(names, candidates, LEAST, pattern)
    return (found[0][3], found[0][2]) if found else (None, "")


def changed_by_lora(names: Iterable[str]) -> list[str]:
    """The weights that a LoRA changes, as it calls them, one for each of its tensors; none where it is no LoRA."""
    return [_LORA_PREFIX.sub("", _LORA.sub("", name)) for name in names if _LORA.search(name)]


def _flat(pattern: str) -> str:
    """As kohya's LoRAs have a name, with no dots."""
    return re.sub(r"_\d+(?=_|$)", "_#", pattern.replace(".", "_"))


def _ranked(
    names: Sequence[str], candidates: Mapping[Key, frozenset[str]], least: float, as_pattern: Callable[[str], str]
) -> list[tuple[int, float, str, Key]]:
    """By how many of the names, and what share of a candidate's patterns, are there, with a prefix: the best first."""
    found = []
    for prefix in prefixes_of(names):
        held = Counter(as_pattern(stem(name[len(prefix) :])) for name in names if name.startswith(prefix))
        for key, patterns in candidates.items():
            there = patterns & held.keys()
            share = len(there) / len(patterns)
            if there and share >= least:
                found.append((sum(held[each] for each in there), share, prefix, key))
    return sorted(found, key=lambda each: (-each[0], -each[1], len(each[2])))
