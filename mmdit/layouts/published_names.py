"""What each layout calls the weights of the published networks, and their shapes.

It follows from the shipped configs and the layouts' lines; as making it takes longer than all else that a file is
asked, it also stands in `configs/recognition.json`, of the shapes a hash, which is taken while the configs are those
that it was made of. After a change of a layout or a config it is written anew (in minutes) by

    python -c "from mmdit.layouts.published_names import write_index; write_index()"
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mmdit.config import as_config
from mmdit.config.construct import build_on_meta
from mmdit.config.shipped import shipped_configs
from mmdit.layouts.language import LayoutError
from mmdit.layouts.layout import Layout
from mmdit.layouts.names import first_blocks, pattern, stem
from mmdit.layouts.registry import LAYOUTS, family_name
from mmdit.options import ModelOptions

__all__ = ["Published", "patterns_of", "published_configs", "published_names", "published_with", "write_index"]

INDEX = "recognition.json"
Names = dict[tuple[str, str], tuple[frozenset[str], tuple[str, ...]]]
Shapes = Mapping[str, tuple[int, ...]]


class Published(NamedTuple):
    """The shipped configs whose weights have the same names and shapes in a layout, and which of these are tables."""

    configs: tuple[str, ...]
    tables: tuple[str, ...]


def published_configs() -> list[str]:
    """The shipped configs of whole networks, toys and ablations left out."""
    return [name for name in shipped_configs() if "/" not in name and not name.startswith("toy")]


@cache
def published_names() -> Names:
    """By layout and family: the patterns, and the shipped configs that have them."""
    said = _said()
    if said is None:
        return computed_names()
    return {(x["layout"], x["family"]): (frozenset(x["patterns"]), tuple(x["configs"])) for x in said["names"]}


def published_with(layout: str, shapes: Shapes) -> Published | None:
    """The shipped configs whose weights are just these in a layout; None where there are none, or where the index is
    not that of the configs."""
    found = (_said() or {}).get("shapes", {}).get(_digest(layout, shapes))
    return None if found is None else Published(tuple(found["configs"]), tuple(found["tables"]))


def computed_names() -> Names:
    """The same from the configs and the layouts."""
    found: Names = {}
    texts = {name: shipped_configs()[name].read_text(encoding="utf-8") for name in published_configs()}
    for name in sorted(texts, key=lambda name: "\nextends:" in texts[name]):  # what others extend comes first
        config = as_config(name).model
        for layout in LAYOUTS:
            try:
                key = layout, family_name(layout, config)
                patterns = patterns_of(layout, config)
            except LayoutError:
                continue
            known, configs = found.get(key, (frozenset(), ()))
            found[key] = known | patterns, (*configs, name)
    return found


def computed_shapes(names: Names) -> dict[str, Published]:
    """By the hash of their shapes: the configs, in their order in `names`, of several with one model the first."""
    found: dict[str, Published] = {}
    models = {name: as_config(name).model for _, configs in names.values() for name in configs}
    for (layout, _), (_, configs) in names.items():
        for name in configs:
            try:
                known = Layout(layout, models[name])
            except LayoutError:  # it has no place for one of the tensors
                continue
            key = _digest(layout, known.theirs)
            others = found[key].configs if key in found else ()
            if models[name] not in [models[other] for other in others]:
                found[key] = Published((*others, name), tuple(sorted(known.tables)))
    return found


def write_index() -> None:
    """Write the file of the source tree anew."""
    known = computed_names()
    names = [
        {"layout": layout, "family": family, "configs": list(configs), "patterns": sorted(patterns)}
        for (layout, family), (patterns, configs) in known.items()
    ]
    shapes = {key: each._asdict() for key, each in computed_shapes(known).items()}
    file = _index()
    assert file is not None
    text = json.dumps({"made_of": _made_of(), "names": names, "shapes": shapes}, indent=1)
    file.write_text(text + "\n", encoding="utf-8")


def patterns_of(layout: str, config: ModelOptions) -> frozenset[str]:
    """What a layout calls a config's weights.

    Raises:
        LayoutError: it has no place for them.
    """
    try:
        return frozenset(pattern(stem(name)) for _, theirs in first_blocks(layout, config) for name in theirs)
    except LayoutError:
        if layout != "mmdit":
            raise
    return frozenset(pattern(stem(name)) for name in build_on_meta(config).state_dict())


def _index() -> Path | None:
    """Beside the configs."""
    return next((path.parent / INDEX for name, path in shipped_configs().items() if "/" not in name), None)


@cache
def _said() -> dict[str, Any] | None:
    """What the index says; None where there is none, or one of other configs."""
    file = _index()
    try:
        said: dict[str, Any] = json.loads(file.read_bytes()) if file is not None else {}
    except (OSError, ValueError):
        return None
    return said if said.get("made_of") == _made_of() else None


def _digest(layout: str, shapes: Shapes) -> str:
    """The SHA-256 of names and shapes in a layout."""
    text = json.dumps([layout, sorted((name, list(shape)) for name, shape in shapes.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def _made_of() -> str:
    """The SHA-256 of the configs."""
    digest = hashlib.sha256()
    for name in published_configs():
        digest.update(shipped_configs()[name].read_bytes())
    return digest.hexdigest()
