"""What a file of weights is, from its headers alone: whose names, which network and config, what else is there."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mmdit.config import as_config
from mmdit.config.diffusers_config import config_file
from mmdit.layouts.adapters import read_adapter
from mmdit.layouts.fitting import Fit, fit
from mmdit.layouts.layout import Layout
from mmdit.layouts.names import pattern, stem
from mmdit.layouts.recognition import Recognized, recognize
from mmdit.weights.contents import Part, kind_of, parts_of
from mmdit.weights.header import CheckpointError, TensorInfo
from mmdit.weights.matching import unreadable
from mmdit.weights.places import is_index, left_over
from mmdit.weights.reader import WeightFiles
from mmdit.weights.saved_model import CONFIG_KEY, read_config

Held = Mapping[str, TensorInfo]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a file of weights is.

    `config` is the shipped config that fits, the folder that has one, or the name of the one in the file, with what has
    to be `set`; `others` fit as well. `tensors`, `parameters` and `bytes` are the network's, and `dtypes` says how many
    of its tensors have each; `quantized` says so of schemes such as `fp8 e4m3fn, scaled`. `spelling`, `ranks` and
    `targets` are of a LoRA that can be merged. `inside` is what else is in the file, `doubts` what the file does not
    tell, `problems` how its network differs from the config all the same, and `next` holds commands that go on from
    here.
    """

    config: str | None = None
    ok: bool
    file: str
    format: str
    layout: str | None = None
    prefix: str = ""
    family: str | None = None
    lora: bool = False
    others: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    quantized: dict[str, int]
    spelling: str | None = None
    ranks: tuple[int, ...] = ()
    targets: int = 0
    inside: list[Part]
    doubts: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    next: tuple[str, ...] = ()


def identify(path: Path) -> Identity:
    """What a safetensors file, an index or a folder of shards is.

    Raises:
        mmdit.weights.saved_model.CheckpointError: it can't be read; the message says what it is.
    """
    with WeightFiles(path) as files:
        held = files.tensors
        if CONFIG_KEY in files.metadata:
            return _with_own_config(files, path)
        found = recognize(held)
        if found is None:
            return _identity(files, {}, problems=("no network in it whose names mmdit knows",))
        return _of_lora(files, found) if found.lora else _of_network(files, found, path)


def _with_own_config(files: WeightFiles, path: Path) -> Identity:
    layout = Layout("mmdit", read_config(files).model)
    problems, name = tuple(unreadable(layout.theirs, files.tensors)), files.metadata.get("config_name", "its own")
    after = () if problems else (f"mmdit export -c {_quoted(path)} --out copy.safetensors",)
    return _identity(files, files.tensors, config=name, layout=layout.name, problems=problems, next=after)


def _of_lora(files: WeightFiles, found: Recognized) -> Identity:
    family, *more = found.configs
    doubts = (f"as many of its names are those of {', '.join(more)}",) if more else ()
    about: dict[str, Any] = {"layout": found.layout, "prefix": found.prefix, "family": family, "lora": True}
    try:
        lora = read_adapter(files.path)
        about |= {"spelling": lora.spelling, "ranks": lora.ranks, "targets": len(lora.targets)}
        about["next"] = (
            f"mmdit export -c CONFIG --weights WEIGHTS --lora {_quoted(files.path)} --out OUT.safetensors",
        )
    except CheckpointError as error:
        about["problems"] = (str(error),)
    return _identity(files, files.tensors, doubts=doubts, **about)


def _of_network(files: WeightFiles, found: Recognized, path: Path) -> Identity:
    held, start = files.tensors, len(found.prefix)
    under = {name[start:]: info for name, info in held.items() if name.startswith(found.prefix)}
    own = {name: x for name, x in under.items() if kind_of(name) is None or pattern(stem(name)) in found.patterns}
    if config_file(path) is not None:
        fitted = _fit_of_its_config(found.layout, path, own)
    else:
        fitted = fit(found.layout, [name for names in found.configs.values() for name in names], own)
    config, *others = fitted.configs
    doubts = [*_left_over(files), *fitted.doubts]
    if others:
        doubts.append(f"{', '.join(others)}: the same weights as {config}; which of them it is, no tensor tells")
    given = "".join(f" --set {shlex.quote(each)}" for each in fitted.overrides)
    given = f"-c {shlex.quote(config)}{given} --weights {_quoted(path)}"
    after = f"mmdit shape-check {given}" if fitted.problems else f"mmdit export {given} --out OUT.safetensors"
    return _identity(
        files,
        {found.prefix + name: info for name, info in own.items()},
        tables=[found.prefix + name for name in fitted.tables],
        config=config,
        layout=found.layout,
        prefix=found.prefix,
        family=next((of for of, names in found.configs.items() if config in names), next(iter(found.configs))),
        others=tuple(others),
        set=fitted.overrides,
        doubts=tuple(doubts),
        problems=fitted.problems,
        next=(after,),
    )


def _fit_of_its_config(layout: str, path: Path, own: Held) -> Fit:
    """How a folder's weights fit its own `config.json`."""
    known = Layout(layout, as_config(path).model)
    return Fit((str(path),), (), tuple(known.tables), (), tuple(unreadable(known.theirs, own)))


def _left_over(files: WeightFiles) -> list[str]:
    names = left_over(files.path, list(files.headers)) if is_index(files.path) else []
    return [f"the index does not name {', '.join(names)}, left over from something else"] if names else []


def _identity(files: WeightFiles, own: Held, *, tables: Sequence[str] = (), **about: Any) -> Identity:
    """`own`: the network's tensors, of which `tables` are no parameters."""
    count = len(files.headers)
    return Identity(
        ok=not about.get("problems"),
        file=str(files.path),
        format=files.format if count == 1 else f"{files.format}, {count} shards",
        tensors=len(own),
        parameters=sum(prod(info.shape) for name, info in own.items() if name not in tables),
        bytes=sum(info.stop - info.start for info in own.values()),
        dtypes=dict(Counter(files.stored[name].dtype for name in own).most_common()),
        quantized=dict(Counter(how.scheme for name, how in files.quantized.items() if name in own).most_common()),
        inside=parts_of([name for name in files.tensors if name not in own], files.tensors),
        **about,
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
