"""What the keys of a document mean: what a figure is called, and how it is shown.

A figure is found by its path, the keys that lead to it in a result: `("latency_ms", "median")`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from mmdit_cli.output import units as f

Path = tuple[str, ...]

NAMED = {  # what is under these keys was named by a user, and is called as it is written
    *("tokens", "valid_tokens", "inputs", "outputs", "point", "differing", "uncounted_operators", "weight_bytes"),
    *("accuracy", "held_out", "chance", "per_attribute", "oracle_real", "oracle_noise", "any_to_any", "files"),
}
LABELS = {
    ("latency_ms", "ci_low"): "latency, 95 % from",
    ("latency_ms", "ci_high"): "latency, 95 % to",
    ("ratio", "ratio"): "against the first",
    ("ratio", "low"): "against the first, 95 % from",
    ("ratio", "high"): "against the first, 95 % to",
    ("bound", "ms"): "least time",
    ("bound", "of_measured"): "of the limit",
    ("bound", "limited_by"): "bound by",
    ("ceiling", "gemm_flops_per_s"): "ceiling, products",
    ("ceiling", "bytes_per_s"): "ceiling, memory",
    ("config",): "config",
    ("point",): "",
}
WORDS = (  # in their order
    (r"flops_per_s$", "FLOP/s"),
    (r"_per_s$", "/s"),
    (r"_per_", " per "),
    (r"^memory_bytes$", "memory"),
    (r"_(ms|seconds)$", ""),
    (r"^ms$", "time"),
    (r"_", " "),
    (r"\bflops\b", "FLOPs"),
)
SPREAD = {"mean", "sd", "min", "max", "n"}  # the keys of a figure over seeds


def _milliseconds(value: float) -> str:
    return f.seconds(value / 1e3)


SHOWN: tuple[tuple[str, Callable[[Any], str]], ...] = (  # the first pattern that a dotted path has, for numbers
    (r"(^|\.)(runs|calls|n|reached|parameters|batch_size|seeds?|processes|steps|samples)$", lambda x: f"{x:,}"),
    (r"^(tokens|valid_tokens)\b", lambda x: f"{x:,}"),
    (r"(^|[._])ms(\.|$)", _milliseconds),
    (r"flops_per_s$", lambda x: f.rate(x, "FLOP")),
    (r"bytes_per_s$", lambda x: f.rate(x, "B")),
    (r"_per_s$", lambda x: f"{f.number(x)}/s"),
    (r"(^|[._])bytes(\.|$)|(^|\.)(memory|spare|peak)$", f.bytes_),
    (r"(^|[._])flops(_per_token)?$", f.flops),
    (
        r"(^|\.)(share|\w*utilization|of_measured|accuracy|held_out|chance|agreement|oracle_\w+|per_attribute|any_to_any"
        r"|target|taken_by_others)(\.|$)",
        f.percent,
    ),
    (r"hours$", lambda x: f"{f.number(x)} h"),
    (r"seconds$", f.seconds),
)


def leaves(value: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    """The figures of a result under their paths; lists of records are left out, and a spread over seeds is one."""
    if isinstance(value, Mapping) and not (path and is_spread(value)):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, str(key)))]
    return [] if is_records(value) else [(path, value)]


def is_spread(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == SPREAD


def is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def label(path: Path) -> str:
    """What a figure is called."""
    if path in LABELS:
        return LABELS[path]
    own = path[:1] if path[0] in NAMED else path
    words = [LABELS.get((part,), _words(part)) for part in own] + list(path[len(own) :])
    return ", ".join(word for word in words if word)


def _words(key: str) -> str:
    for pattern, text in WORDS:
        key = re.sub(pattern, text, key)
    return key


def shown(path: Path, value: Any) -> str:
    """A figure as people read it: three digits and a unit."""
    if value is None:
        return f.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_spread(value):
        mean, sd = shown(path, value["mean"]), value["sd"]
        return mean if sd is None else f"{mean} ± {shown(path, sd)}"
    if isinstance(value, (int, float)):
        show = next((show for pattern, show in SHOWN if re.search(pattern, ".".join(path))), None)
        return show(value) if show else f"{value:,}" if isinstance(value, int) else f.number(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "; ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def number_of(value: Any) -> float | None:
    """What a figure is ordered by; None: it is no number."""
    value = value.get("mean") if is_spread(value) else value
    return float(value) if isinstance(value, (int, float)) else None
