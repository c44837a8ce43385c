"""An earlier profile to compare with: what has become worse, by more than a tolerance and more than noise."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmdit.config.yaml_document import one_line
from mmdit_cli.errors import UserError
from mmdit_cli.model_parts.intervals import next_interval

LARGEST = 1e300  # of a figure; an integer of JSON may be larger than any float

# what is compared: key of a result, its path in it, how it is called
MEASURED = (("latency", ("latency_ms", "median")), ("peak memory", ("memory_bytes", "peak")))
COUNTED = (("parameters", ("parameters",)), ("FLOPs", ("flops",)))
# of a document or a result: what has to be as it was, and the flag that makes it so
SETTINGS = {"mode": "--mode", "dtype": "--dtype", "device": "--device", "compiled": "--compile", "caches": "--cold"}
SETTINGS |= {"batch_size": "run.batch_size", "tokens": "run.tokens", "valid_tokens": "run.mask"}
# of a document: what may differ, but then nothing that is measured can be judged
SURROUNDINGS = {
    "threads": ("{} threads", " (--threads {} measures as it did)"),
    "torch_version": ("torch {}", ""),
    "device_name": ("{}", ""),
}


@dataclass(frozen=True)
class BaselineChange:
    """One figure against the baseline's. `verdict`: same, better or worse; noise: its interval says neither; withheld:
    it was measured under other conditions.

    A latency that seemed to have changed was repeated in `processes` fresh ones: `now` is their geometric mean, and
    `low` and `high` are the ratio's 95 % interval, in which 1 lies where nothing has changed.
    """

    config: str
    figure: str
    before: float
    now: float
    ratio: float
    verdict: str
    low: float | None = None
    high: float | None = None
    processes: int = 0


def parse_tolerance(text: str) -> float:
    """`5%` or `0.05` as a share.

    Raises:
        UserError: it is neither.
    """
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < float("inf"):
        raise UserError(f"--tolerance {text}: expected a share such as 5% or 0.05")
    return share


def compare_with_baseline(
    now: Sequence[Mapping[str, Any]],
    baseline: Mapping[str, Any],
    tolerance: float,
    *,
    withheld: Collection[str] = (),
) -> list[BaselineChange]:
    """Every figure of the results against the baseline's, by config (and sweep point).

    Parameters and FLOPs are counted, so any rise is worse. Latency is noise while both medians' intervals overlap.

    Args:
        withheld: figures that are shown and not judged.

    Raises:
        UserError: the baseline has no such config, or a result lacks a figure.
    """
    changes = []
    for result, before in zip(now, find_earlier(now, baseline), strict=True):
        for figure, path in (*MEASURED, *COUNTED):
            was, is_ = _figure(before, path), _figure(result, path)
            ratio = is_ / was if was else float("inf") if is_ else 1.0
            allowed = 0 if (figure, path) in COUNTED else tolerance
            verdict = "worse" if ratio > 1 + allowed else "better" if ratio < 1 - allowed else "same"
            if figure in withheld:
                verdict = "withheld"
            elif figure == "latency" and verdict == "worse" and _overlap(before, result):
                verdict = "noise"
            changes.append(BaselineChange(_name(result), figure, was, is_, ratio, verdict))
    return changes


def seems_changed(change: BaselineChange) -> bool:
    """Whether it is a latency to be repeated: its interval tells of the noise within one process, and processes differ
    by more."""
    return change.figure == "latency" and change.verdict in ("worse", "better")


def repeated_latency(change: BaselineChange, medians: Sequence[float], tolerance: float) -> BaselineChange:
    """The verdict on a latency from the medians of fresh processes, each a value as the baseline's is one.

    Were nothing changed, the baseline would be one more of them, and lie outside their interval for one more value once
    in twenty times; half of that makes it worse. The process that raised the question has no part in the answer.
    """
    logs = [math.log(median / change.before) for median in medians]
    interval = next_interval(logs)
    ratio = math.exp(statistics.fmean(logs))
    low, high = (None, None) if interval is None else (math.exp(interval[0]), math.exp(interval[1]))
    verdict = "same" if 1 - tolerance <= ratio <= 1 + tolerance else "noise"
    if verdict == "noise" and low is not None and high is not None and not low <= 1 <= high:
        verdict = "worse" if ratio > 1 else "better"
    now = change.before * ratio
    return replace(change, now=now, ratio=ratio, verdict=verdict, low=low, high=high, processes=len(medians))


def worse_figures(changes: Sequence[BaselineChange]) -> str:
    """Those that became worse, in words; empty where none did."""
    return "; ".join(
        f"{c.config}: {c.figure} is {c.ratio:.3g} x the baseline's" for c in changes if c.verdict == "worse"
    )


def find_earlier(
    wanted: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any], run: Mapping[str, Any] | None = None
) -> list[Mapping[str, Any]]:
    """The baseline's result for each wanted `config` and `point`.

    Args:
        wanted: results, or as much of them as is known: `config`, `point`, and how they are measured.
        run: of this run's document, what stands beside the results.

    Raises:
        UserError: there is none, it was measured with other settings, or it lacks a figure.
    """
    earlier = {_key(result): result for result in baseline["results"] if isinstance(result, Mapping)}
    found = []
    for result in wanted:
        before = earlier.get(_key(result))
        if before is None:
            known = (
                ", ".join(sorted({one_line(str(result.get("config")), 60) for result in earlier.values()})[:10])
                or "none"
            )
            raise UserError(f"--baseline: holds no {_name(result)}; its configs are {known}")
        _check_settings(_name(result), {**(run or {}), **result}, {**baseline, **before})
        for _, path in (*MEASURED, *COUNTED):
            _figure(before, path)
        if before["latency_ms"].get("ci_high") is not None:
            _figure(before, ("latency_ms", "ci_high"))
        found.append(before)
    return found


def other_surroundings(run: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    """What differs between two documents' threads, versions of torch and processors or cards, a sentence each."""
    notices = []
    for key, (text, hint) in SURROUNDINGS.items():
        was, is_ = (one_line(str(document.get(key)), 60) for document in (baseline, run))
        if key in baseline and was != is_:
            notices.append(
                f"The baseline was measured with {text.format(was)}, this run with {text.format(is_)}: what is "
                f"measured is not judged{hint.format(was)}."
            )
    return notices


def _check_settings(name: str, now: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    differ = [key for key in SETTINGS if key in now and key in before and _setting(now, key) != _setting(before, key)]
    if "tokens" in differ and "valid_tokens" in differ:
        differ.remove("valid_tokens")  # which may follow from the tokens
    if differ:
        was, is_ = (
            ", ".join(_in_words(mine, other, key) for key in differ) for mine, other in ((before, now), (now, before))
        )
        flags = ", ".join(SETTINGS[key] for key in differ)
        raise UserError(
            f"--baseline: {name} was measured in {was}, and this run is in {is_}; "
            f"change {flags}, or make a new baseline with --report FILE.json"
        )


def _setting(result: Mapping[str, Any], key: str) -> Any:
    value = result[key]
    return str(value).partition(":")[0] if key == "device" else value  # cards have names, which are compared


def _in_words(result: Mapping[str, Any], other: Mapping[str, Any], key: str) -> str:
    """`dtype 'fp32'`; of counts by modality those in which the other differs: `128 valid tokens of text`."""
    value, theirs = _setting(result, key), _setting(other, key)
    if not (isinstance(value, Mapping) and isinstance(theirs, Mapping)):
        return f"{key} {one_line(repr(value), 60)}"
    what = key.replace("_", " ")
    differ = [f"{count} {what} of {name}" for name, count in value.items() if theirs.get(name) != count]
    return one_line(", ".join(differ) or f"no {what} of {', '.join(map(str, theirs.keys() - value.keys()))}", 200)


def _overlap(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the intervals of both medians share a value."""
    a, b = before["latency_ms"], now["latency_ms"]
    high, low = (latency.get(end) for latency, end in ((a, "ci_high"), (b, "ci_low")))
    return bool((b["median"] if low is None else low) <= (a["median"] if high is None else high))


def _figure(result: Mapping[str, Any], path: tuple[str, ...]) -> float:
    value: Any = result
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LARGEST:
        raise UserError(f"--baseline: {_name(result)} has no number {'.'.join(path)}")
    return float(value)


def _key(result: Mapping[str, Any]) -> str:
    return json.dumps([result.get("config"), result.get("point")], sort_keys=True)


def _name(result: Mapping[str, Any]) -> str:
    point = result.get("point")
    return f"{result.get('config')}" + (f" at {json.dumps(point)}" if point else "")
