"""Plots of what `profile` and `flops` say: rooflines, where time, memory and FLOPs go, and how they grow in a sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmdit_cli.output import units as f
from mmdit_cli.output.page.plots import Axis, Bars, Curves, Part, Plot, Series

Result = Mapping[str, Any]
HELD = ("weights", "ema", "optimizer", "temporaries")
PRODUCTS = ("qkv projection", "output gate", "out projection", "feedforward", "embedding", "output head", "modulation")
ATTENTION = ("attention", "second attention")
ROOFLINES = 6  # configs, each with a picture of its own


def profile_plots(results: Sequence[Result]) -> list[Plot]:
    """Of measured results or of estimates, side by side or at the points of a sweep."""
    if runs := [result for result in results if result.get("mode") == "sample"]:
        others = [result for result in results if result.get("mode") != "sample"]
        return [*_sampling(runs), *(profile_plots(others) if others else [])]
    if spread := [result for result in results if "ranks" in result]:
        others = [result for result in results if "ranks" not in result]
        return [*_spread(spread), *(profile_plots(others) if others else [])]
    measured = [result for result in results if "latency_ms" in result]
    if any(result.get("point") for result in results):
        return [
            *_sweep(measured, "latency", "s", lambda r: r["latency_ms"]["median"] / 1e3, _interval),
            *_sweep(results, "peak memory", "B", lambda r: r["memory_bytes"]["peak"]),
            *_sweep(measured, "utilization", "%", lambda r: 100 * r["utilization"]),
        ]
    plots: list[Plot] = [_roofline(result) for result in measured[:ROOFLINES]]
    if with_parts := [result for result in measured if result["components"]]:
        plots.append(_components("where the time goes", "s", with_parts, lambda c: c["time_ms"] / 1e3, f.seconds))
    return [*plots, _memory(results)]


def flops_plots(results: Sequence[Result]) -> list[Plot]:
    """Where FLOPs and parameters go, or how they grow; of sampling runs the tables alone."""
    results = [result for result in results if result.get("mode") != "sample"]
    if not results:
        return []
    if any(result.get("point") for result in results):
        return [
            *_sweep(results, "forward FLOPs", "FLOP", lambda r: r["forward_flops"]),
            *_sweep(results, "parameters", "", lambda r: r["parameters"]),
        ]
    return [
        _components("where forward FLOPs go", "FLOP", results, lambda c: c["flops"], f.flops),
        _components("where parameters are", "", results, lambda c: c["parameters"], f.count),
    ]


def _sampling(results: Sequence[Result]) -> list[Plot]:
    """What a sample takes, by each way to draw it, or at the points of a sweep by the fastest."""
    if any(result.get("point") for result in results):
        return list(_sweep(results, "a sample", "s", lambda r: r["seconds_per_sample"]))
    rows = []
    for result in results:
        for way in result["ways"]:
            shares, spent = way["shares"] or {"the run": 1.0}, way["seconds_per_sample"]
            parts = [Part(name, share * spent, f.seconds(share * spent)) for name, share in shares.items()]
            rows.append((f"{result['config']}: {way['guidance']}, modulation {way['modulation']}", parts))
    return [Bars("what a sample takes", "A bar for each way to draw it.", "s", rows)]


def _spread(results: Sequence[Result]) -> list[Plot]:
    """What a step takes in each of several processes."""
    rows = []
    for result in results:
        for rank in result["ranks"]:
            split = rank["profiled_ms"]
            named = {"computing": "computing", "exposed": "exposed communication", "neither": "neither"}
            parts = [Part(name, split[key] / 1e3, f.seconds(split[key] / 1e3)) for key, name in named.items()]
            rows.append((f"{result['config']}: {result['parallel']}, process {rank['rank']}", parts))
    return [Bars("what a step takes", "A bar for each process, of steps under torch's profiler.", "s", rows)]


def size_plots(results: Sequence[Result]) -> list[Plot]:
    """Shipped configs by what they cost."""
    sized = [r for r in results if r.get("parameters") and r.get("forward_flops")]
    series = []
    for number, task in enumerate(dict.fromkeys(r["task"] for r in sized)):
        own = [r for r in sized if r["task"] == task]
        points = [(r["parameters"], r["forward_flops"]) for r in own]
        series.append(Series(task, points, [r["config"] for r in own], colour=number, line=False))
    about = "Each config's parameters, and the forward FLOPs of a sample."
    axes = Axis("parameters", log=True), Axis("forward", "FLOP", log=True)
    return [Curves("sizes", about, *axes, series)] if series else []


# ------------------------------------------------------------------------------------------------------------ roofline


def _roofline(result: Result) -> Curves:
    """Reached FLOP/s over FLOPs a byte, under the ceilings measured in the same run (Williams et al. 2009)."""
    ceiling = result["ceiling"]
    gemm, slow = ceiling["gemm_flops_per_s"], ceiling["bytes_per_s"]
    rows = [c for c in result["components"] if c.get("bound") and c["flops"] and c["time_ms"]]
    whole = (result["bound"]["intensity"], result["achieved_flops_per_s"])
    places = [whole[0], gemm / slow, *(c["bound"]["intensity"] for c in rows)]
    left, right = min(places) / 3, max(places) * 3
    roof = Series("ceilings", [(left, left * slow), (gemm / slow, gemm), (right, gemm)], colour=-1, marks=False)
    groups: dict[str, list[Result]] = {"products": [], "attention": [], "others": []}
    for row in rows:
        kind = "products" if row["kind"] in PRODUCTS else "attention" if row["kind"] in ATTENTION else "others"
        groups[kind].append(row)
    marks = [
        Series(
            kind,
            [(c["bound"]["intensity"], c["flops_per_s"]) for c in own],
            [_component_text(c) for c in own],
            sizes=[c["share"] for c in own],
            colour=number,
            line=False,
        )
        for number, (kind, own) in enumerate(groups.items())
        if own
    ]
    used = f.percent(result["utilization"])
    star = Series("the whole", [whole], [f"{result['config']}: {used} of the products' ceiling"], colour=-1, line=False)
    return Curves(
        f"{result['config']}: roofline",
        f"Reached FLOP/s over FLOPs a byte, under the measured ceilings: {f.rate(gemm, 'FLOP')}, {f.rate(slow, 'B')}. "
        "A mark's area is the component's share of the time.",
        Axis("intensity, FLOP a byte", log=True),
        Axis("reached", "FLOP/s", log=True),
        [roof, *marks, star],
    )


def _component_text(row: Result) -> str:
    time = f"{f.seconds(row['time_ms'] / 1e3)}, {f.percent(row['share'])} of the time"
    reached = row["bound"].get("of_measured")  # not said of a busy machine
    return f"{row['name']}: {time}" + ("" if reached is None else f", {f.percent(reached)} of its limit")


# ---------------------------------------------------------------------------------------------------------------- bars


def _components(
    title: str, unit: str, results: Sequence[Result], value: Callable[[Result], float], show: Callable[[float], str]
) -> Bars:
    rows = [
        (r["config"], [Part(c["name"], value(c), show(value(c))) for c in r["components"] if value(c)]) for r in results
    ]
    return Bars(title, "A part for each component.", unit, rows)


def _memory(results: Sequence[Result]) -> Bars:
    """Parts that add up to the peak: what the phase of the peak held longer is the rest."""
    rows = []
    for result in results:
        memory = result["memory_bytes"]
        held = {part: memory.get(part) or 0 for part in HELD}
        rest = "activations" if memory.get("peak_phase") == "forward" else "activations, gradients"
        held[rest] = max(0, memory["peak"] - sum(held.values()))
        rows.append((result["config"], [Part(name, size, f.bytes_(size)) for name, size in held.items() if size]))
    return Bars("what the peak memory is made of", "Bytes at the moment when the most was held.", "B", rows)


# --------------------------------------------------------------------------------------------------------------- sweep


def _interval(result: Result) -> tuple[float, float]:
    latency = result["latency_ms"]
    ends = (latency.get(end) or latency["median"] for end in ("ci_low", "ci_high"))
    low, high = (end / 1e3 for end in ends)
    return low, high


def _sweep(
    results: Sequence[Result],
    title: str,
    unit: str,
    value: Callable[[Result], float],
    interval: Callable[[Result], tuple[float, float]] | None = None,
) -> Iterator[Curves]:
    """A figure over the first number that was swept, a line for each config and value of the others."""
    key = next((key for key in (results[0]["point"] if results else ()) if _varies(results, key)), None)
    if key is None:
        return
    lines: dict[str, list[tuple[float, Result]]] = {}
    several = len({result["config"] for result in results}) > 1
    for result in results:
        others = [f"{k.rpartition('.')[2]} {v}" for k, v in result["point"].items() if k != key]
        name = ", ".join([result["config"]] * several + others) or result["config"]
        lines.setdefault(name, []).append((float(result["point"][key]), result))
    series = []
    for number, (name, line) in enumerate(lines.items()):
        line.sort(key=lambda pair: pair[0])
        band = [(x, *interval(r)) for x, r in line] if interval else []
        series.append(Series(name, [(x, value(r)) for x, r in line], band=band, colour=number))
    log = min(x for line in lines.values() for x, _ in line) > 0
    about = f"Over {key}." + (" Bands: 95 % intervals of the medians." if interval else "")
    yield Curves(title, about, Axis(key, log=log), Axis(title, unit, log=unit != "%"), series)


def _varies(results: Sequence[Result], key: str) -> bool:
    values = [result["point"].get(key) for result in results]
    return len(set(map(str, values))) > 1 and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in values
    )
