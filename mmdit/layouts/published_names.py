"""What each layout calls the weights of the published networks.

It follows from the shipped configs and the layouts' lines; as reading them all takes longer than all else that a file
is asked, it also stands in `configs/recognition.json`, which is taken while the configs are those that it was made of.
After a change of a layout or a config it is written anew by

    python -c "from mmdit.layouts.published_names import write_index; write_index()"
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import torch

from mmdit.config import as_config, build
from mmdit.config.shipped import shipped_configs
from mmdit.layouts.language import LayoutError
from mmdit.layouts.names import first_blocks, pattern, stem
from mmdit.layouts.registry import LAYOUTS, family_name
from mmdit.options import ModelOptions

__all__ = ["patterns_of", "published_configs", "published_names", "write_index"]

INDEX = "recognition.json"
Names = dict[tuple[str, str], tuple[frozenset[str], tuple[str, ...]]]


def published_configs() -> list[str]:
    """The shipped configs of whole networks, toys and ablations left out."""
    return [name for name in shipped_configs() if "/" not in name and not name.startswith("toy")]


@cache
def published_names() -> Names:
    """By layout and family: the patterns, and the shipped configs that have them."""
    made_of, file = _made_of(), _index()
    try:
        said = json.loads(file.read_bytes()) if file is not None else {}
    except (OSError, ValueError):
        said = {}
    if said.get("made_of") != made_of:
        return computed_names()
    return {(x["layout"], x["family"]): (frozenset(x["patterns"]), tuple(x["configs"])) for x in said["names"]}


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


def write_index() -> None:
    """Write the file of the source tree anew."""
    names = [
        {"layout": layout, "family": family, "configs": list(configs), "patterns": sorted(patterns)}
        for (layout, family), (patterns, configs) in computed_names().items()
    ]
    file = _index()
    assert file is not None
    file.write_text(json.dumps({"made_of": _made_of(), "names": names}, indent=1) + "\n", encoding="utf-8")


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
    with torch.device("meta"):
        return frozenset(pattern(stem(name)) for name in build(config).state_dict())


def _index() -> Path | None:
    """Beside the configs."""
    return next((path.parent / INDEX for name, path in shipped_configs().items() if "/" not in name), None)


def _made_of() -> str:
    """The SHA-256 of the configs."""
    digest = hashlib.sha256()
    for name in published_configs():
        digest.update(shipped_configs()[name].read_bytes())
    return digest.hexdigest()
