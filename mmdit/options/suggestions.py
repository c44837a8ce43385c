"""What someone meant by a key that there is none of: another place, or another name of the field's."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_args, get_origin

from mmdit.options import values

NAME = "NAME"  # in a path: any key of a mapping
LONGEST = 100
ALIASES = {  # names that other projects have for our keys
    "qk_norm": "qk_rmsnorm",
    "qk_rms_norm": "qk_rmsnorm",
    "qk_layer_norm": "qk_layernorm",
    "num_layers": "depth",
    "n_layers": "depth",
    "layers": "depth",
    "num_blocks": "depth",
    "num_heads": "heads",
    "n_heads": "heads",
    "num_attention_heads": "heads",
    "head_dim": "dim_head",
    "attention_head_dim": "dim_head",
    "hidden_size": "dim",
    "hidden_dim": "dim",
    "width": "dim",
    "mlp_ratio": "mult",
    "patch_size": "patch",
    "in_channels": "channels",
    "vocab_size": "vocabulary",
    "max_len": "max_length",
    "rope": "rotary",
    "rope_theta": "theta",
    "rope_axes": "axes",
    "axes_dim": "axes",
    "pos_embed": "positions",
    "gradient_checkpointing": "checkpoint_activations",
    "eps": "norm_eps",
    "num_register_tokens": "register_tokens",
    "registers": "register_tokens",
    "softclamp_value": "softclamp",
    "bs": "batch_size",
    "lr": "learning_rate",
    "wd": "weight_decay",
    "max_steps": "steps",
    "num_steps": "steps",
    "iterations": "steps",
    "warmup": "warmup_steps",
    "ema": "ema_decay",
    "grad_clip": "clip_grad_norm",
    "cfg_scale": "guidance",
    "guidance_scale": "guidance",
}


def meant(root: Any, at: tuple[str | int, ...], value: Any) -> str:
    """`; did you mean model.depth, as in model: {depth: 4}?` of an unknown key; empty where nothing is near.

    Args:
        root: the dataclass of the whole.
        at: the key's path.
        value: what was written there; of a mapping with one key, that key is the one to place.
    """
    path = list(map(str, at))
    while isinstance(value, Mapping) and len(value) == 1 and len(path) < 10:
        (key, value), *_ = value.items()
        path.append(str(key))
    here, known = path[: len(at) - 1], _known(root)
    key = path[-1][:LONGEST]
    same = [each[-1] for each in known if len(each) == len(here) + 1 and _alike(each, here) == len(here)]
    named = [each for each in known if each[-1] == ALIASES.get(key, key)]
    near = difflib.get_close_matches(str(at[-1])[:LONGEST], same, n=1)
    if near and (not named or len(path) > len(at)):  # a slip in the key itself, whatever is below it
        return f"; did you mean {near[0]}?"
    if not named:
        close = difflib.get_close_matches(key, {each[-1] for each in known}, n=1)
        named = [each for each in known if each[-1] in close]
    best = max(named, key=lambda each: (_alike(each, path[:-1]), -len(each)), default=())
    if not best or (len(best) == len(path) and _alike(best, path) == len(path)):  # the same key, of another kind
        return ""
    if len(path) == len(at) and len(best) == len(path) and _alike(best, here) == len(here):
        return f"; did you mean {best[-1]}?"
    best = (*path[: _alike(best, path[:-1])], *best[_alike(best, path[:-1]) :])
    form = "{...}" if isinstance(value, (Mapping, list)) else "null" if value is None else f"{value!s:.60}"
    form = form.lower() if isinstance(value, bool) else form
    for part in reversed(best):
        form = f"{{{part}: {form}}}"
    return f"; did you mean {'.'.join(best)}, as in {form[1:-1]}?"


@cache
def _known(root: Any) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(_paths(root)))


def _alike(path: tuple[str, ...], other: list[str]) -> int:
    """How many parts two paths share from the beginning."""
    pairs = zip(path, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a not in (b, NAME)), min(len(path), len(other)))


def _paths(part: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for each in values.fields_of(part):
        path = (*above, each.name)
        yield path
        for kind in values.types_of(part)[each.name]:
            if get_origin(kind) is dict:
                yield (*path, NAME)
                members, below = values.alternatives(get_args(kind)[1]), (*path, NAME)
            else:
                members, below = [kind], path
            for member in members:
                if is_dataclass(member):
                    yield from _paths(member, below)
