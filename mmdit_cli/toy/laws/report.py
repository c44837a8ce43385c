"""The laws of all designs of a comparison, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.comparability import same_loss
from mmdit_cli.toy.comparison import Comparison
from mmdit_cli.toy.designs import Design
from mmdit_cli.toy.laws.advantage import FEWEST, Advantage, advantage
from mmdit_cli.toy.laws.optimum import FEWEST_LENGTHS, FREE, Optimum, Trained, optimum
from mmdit_cli.toy.laws.power_law import FEWEST_SIZES, Figure, FittedLaw, Measured, PowerLaw, Variable
from mmdit_cli.toy.laws.powers import Array
from mmdit_cli.toy.laws.shapes import Member, designs_of
from mmdit_cli.toy.train_result import TrainResult

FIGURES: tuple[Figure, ...] = ("loss", "1 - accuracy")


@dataclass(frozen=True)
class LawReport:
    """`laws` of each design; `advantages` of each design over the first; `optima`: of each, where a budget was given.
    `notes`: what could not be fitted, and why."""

    laws: list[PowerLaw]
    advantages: list[Advantage]
    optima: list[Optimum]
    notes: list[str]


@dataclass(frozen=True)
class _Size:
    """A member that was trained, with what it gave by seed."""

    design: Design
    config: ToolConfig
    runs: dict[int, TrainResult]

    @property
    def flops(self) -> float:
        return float(self.design.steps * self.design.step_flops)


def fit_laws(
    configs: Sequence[ToolConfig],
    comparison: Comparison,
    results: Sequence[TrainResult],
    budget: float | None = None,
) -> LawReport:
    """Fit the laws of every design that the compared configs are sizes of.

    Args:
        configs: those of the comparison's designs, in their order.
        budget: FLOPs to be spent best.
    """
    members = [Member(c.name, c, d.point) for c, d in zip(configs, comparison.designs, strict=True)]
    designs, notes = {}, list[str]()
    by_name = {design.config: design for design in comparison.designs}
    for name, own in designs_of(members, tuned=comparison.tuning is not None).items():
        runs = {member.name: {r.seed: r for r in results if r.config == member.name} for member in own}
        trained = [_Size(by_name[m.name], m.config, runs[m.name]) for m in own if runs[m.name]]
        notes += [f"{m.name} is in no law: none of its runs finished" for m in own if not runs[m.name]]
        designs[name] = sorted(trained, key=lambda size: (size.design.steps, size.design.parameters))
    fitted = {name: [*_laws(name, sizes, notes)] for name, sizes in designs.items()}
    (first, first_laws), *others = fitted.items()
    known = {_kind(law): law for law in first_laws}
    advantages = list[Advantage]()
    for name, laws in others:
        for law in laws:
            if (to := known.get(_kind(law))) is None:
                continue
            of = _named(f"{name} against {first}", law.measured.figure, law.measured.variable, law.measured.steps)
            if law.measured.figure == "loss" and not same_loss(designs[first][0].config, designs[name][0].config):
                notes.append(f"{of}: not compared, for the losses are not the same quantity")
            elif (found := advantage(law, to)) is None:
                notes.append(f"{of}: not compared, for fewer than {FEWEST} sizes have one like them, of the same seeds")
            else:
                advantages.append(found)
    optima = [] if budget is None else [*_optima(designs, budget, notes)]
    every = [law.result() for laws in fitted.values() for law in laws]
    notes += [f"{_named(law.design, law.figure, law.variable, law.steps)}: {law.why}" for law in every if law.why]
    if every and len(every[0].seeds) == 1:
        notes.append(
            "One seed: what a seed shifts in all sizes is in no interval, and how well the law fits can't be held "
            "against the noise of runs; --seeds 3 tells both."
        )
    return LawReport(every, advantages, optima, notes)


def _kind(law: FittedLaw) -> tuple[Figure, Variable, int | None]:
    return law.measured.figure, law.measured.variable, law.measured.steps


def _named(design: str, figure: Figure, variable: Variable, steps: int | None) -> str:
    return f"{design}, {figure} by {variable}" + ("" if steps is None else f" after {steps:,} steps")


def _laws(name: str, sizes: Sequence[_Size], notes: list[str]) -> Iterator[FittedLaw]:
    """By parameters for each length, and by training FLOPs."""
    lengths = {size.design.steps: [x for x in sizes if x.design.steps == size.design.steps] for size in sizes}
    for steps, own in lengths.items():
        for figure in FIGURES:
            yield from _law(name, figure, "parameters", steps, own, notes)
    only = next(iter(lengths)) if len(lengths) == 1 else None
    for figure in FIGURES:
        own = list(sizes) if only is not None else _cheapest(sizes, figure)
        yield from _law(name, figure, "training FLOPs", only, own, notes)


def _law(
    name: str, figure: Figure, variable: Variable, steps: int | None, sizes: Sequence[_Size], notes: list[str]
) -> Iterator[FittedLaw]:
    x = np.array([s.design.parameters if variable == "parameters" else s.flops for s in sizes], float)
    seeds, table = _table(sizes, figure)
    where = _named(name, figure, variable, steps)
    if len(set(x)) < FEWEST_SIZES or not seeds:
        have = f"{len(set(x))} of {FEWEST_SIZES} sizes" if seeds else "no seed that all sizes finished"
        notes.append(f"{where}: no law, for there is {have}")
    elif np.ptp(table) == 0 or (figure == "loss" and table.min() <= 0):
        notes.append(f"{where}: no law, for all are {table.flat[0]:.3g}")
    else:
        groups, configs = np.array([s.design.steps for s in sizes]), [s.config.name for s in sizes]
        yield FittedLaw(Measured(name, figure, variable, steps, configs, seeds, x, table, groups))


def _table(sizes: Sequence[_Size], figure: Figure) -> tuple[list[int], Array]:
    """The seeds that all sizes finished, and the figure of each size and seed."""
    seeds = sorted(set.intersection(*(set(size.runs) for size in sizes))) if sizes else []

    def value(run: TrainResult) -> float:
        return run.loss["last"] if figure == "loss" else 1 - run.mean_accuracy

    return seeds, np.array([[value(size.runs[seed]) for seed in seeds] for size in sizes])


def _cheapest(sizes: Sequence[_Size], figure: Figure) -> list[_Size]:
    """Those that no other beats in the figure for as many FLOPs or fewer (the envelope of Hoffmann et al. 2022,
    section 3.1, of last losses alone)."""
    seeds, table = _table(sizes, figure)
    kept: list[_Size] = []
    if seeds:
        means, best = table.mean(axis=1), np.inf
        for place in sorted(range(len(sizes)), key=lambda place: (sizes[place].flops, means[place])):
            if means[place] < best:
                kept, best = [*kept, sizes[place]], means[place]
    return kept


def _optima(designs: dict[str, list[_Size]], budget: float, notes: list[str]) -> Iterator[Optimum]:
    for name, sizes in designs.items():
        seeds, table = _table(sizes, "loss")
        lengths = {size.design.steps for size in sizes}
        counts = {size.design.parameters for size in sizes}
        if not seeds or len(lengths) < FEWEST_LENGTHS or len(counts) < FEWEST_SIZES or len(sizes) <= FREE:
            notes.append(f"{name}: too few sizes and lengths finished to say how a budget is best spent")
            continue
        batch = sizes[0].design.batch_size
        steps = np.array([size.design.steps for size in sizes], float)
        step_flops = np.array([size.design.step_flops for size in sizes], float)
        parameters = np.array([size.design.parameters for size in sizes], float)
        configs = [size.config.name for size in sizes]
        yield optimum(name, Trained(configs, parameters, steps * batch, step_flops / batch, table, batch), budget)
