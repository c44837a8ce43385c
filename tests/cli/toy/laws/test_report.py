"""The laws of a comparison, by hand and by the command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from mmdit.options import as_written
from mmdit_cli.commands.json_schemas import document_schema
from mmdit_cli.output.figures import save_figure
from mmdit_cli.output.page.law_plots import law_plots
from mmdit_cli.toy.comparison import compare_designs
from mmdit_cli.toy.laws.law_plot import law_plot
from mmdit_cli.toy.laws.law_tables import law_tables
from mmdit_cli.toy.laws.report import LawReport, fit_laws
from mmdit_cli.toy.run_settings import RunSettings
from mmdit_cli.toy.runs import InTurns
from mmdit_cli.toy.seed_plan import SeedPlan
from tests.support.fake_runs import fake_train, named
from tests.support.tables import printed

DEPTHS, SEEDS = (1, 2, 3, 5, 8), 3
NOISE = {(depth, seed): 1 + 0.002 * ((depth * 7 + seed * 5) % 4 - 1.5) for depth in DEPTHS for seed in range(SEEDS)}


@pytest.fixture(autouse=True)
def _known_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters and FLOPs by depth, for to count them takes longer than all else."""

    def counted(config: Any) -> Any:
        size = 1000 * config.model.depth
        return SimpleNamespace(parameters=size, batch_size=4, tokens={"image": 4}, step_flops=24 * size)

    monkeypatch.setattr("mmdit_cli.toy.designs.count_flops", counted)


def with_norm(name: str, depth: int, **settings: Any) -> Any:
    config = named(name, depth, **settings)
    return replace(config, model=replace(config.model, qk_rmsnorm=False))


def report(
    folder: Path, failed: tuple[str, ...] = (), lengths: tuple[int, ...] = (6,), budget: float | None = None
) -> LawReport:
    """Of two designs, of which b loses a tenth less, whatever the size."""
    configs = [
        make(f"{name}-{depth}-{steps}" if len(lengths) > 1 else f"{name}-{depth}", depth, steps=steps)
        for name, make in (("a", named), ("b", with_norm))
        for steps in lengths
        for depth in DEPTHS
    ]
    losses = {
        (c.name, seed): (1 if c.name[0] == "a" else 0.9)
        * (0.1 + c.model.depth**-0.7 + 0.5 * (c.train.steps / 6) ** -0.5)
        * NOISE[c.model.depth, seed]
        for c in configs
        for seed in range(SEEDS)
        if c.name not in failed
    }
    runner = InTurns(fake_train(losses, []))
    results, comparison = compare_designs(configs, SeedPlan(0, SEEDS), folder=folder, runner=runner)
    return fit_laws(configs, comparison, results, budget)


def test_two_designs_have_laws_and_the_advantage_of_one_stays(tmp_path: Path) -> None:
    found = report(tmp_path)
    kinds = [(law.design, law.figure, law.variable, law.steps) for law in found.laws]
    assert kinds == [(d, "loss", v, 6) for d in "ab" for v in ("parameters", "training FLOPs")]
    by_size, by_flops, *_ = found.laws
    assert [point.config for point in by_size.points] == [f"a-{depth}" for depth in DEPTHS]
    assert by_size.determined and all(p.mean == pytest.approx(p.fitted, rel=0.02) for p in by_size.points)
    assert [p.mean for p in by_flops.points] == [p.mean for p in by_size.points]
    assert [(x.design, x.to, x.trend) for x in found.advantages] == [("b", "a", "stays")] * 2
    assert found.advantages[0].at_smallest.value == pytest.approx(0.1, abs=0.004)
    # every run draws all right, so that there is no law of errors
    assert any("1 - accuracy by parameters after 6 steps: no law, for all are 0" in note for note in found.notes)
    text = printed(law_tables(found, 160), 160)
    assert "stays" in text and "a-" not in text and re.search(r"\+(9|10)\.\d%", text)


@pytest.mark.slow
def test_lengths_have_laws_of_their_own_and_the_cheapest_one_by_flops(tmp_path: Path) -> None:
    found = report(tmp_path, lengths=(6, 12, 24), budget=1e9)
    a = [law for law in found.laws if law.design == "a"]
    kinds = [*(("parameters", steps) for steps in (6, 12, 24)), ("training FLOPs", None)]
    assert [(law.variable, law.steps) for law in a] == kinds
    cheapest = a[-1].points
    assert [p.x for p in cheapest] == sorted(p.x for p in cheapest) and len(cheapest) < 15
    assert [p.mean for p in cheapest] == sorted((p.mean for p in cheapest), reverse=True)
    assert [each.design for each in found.optima] == ["a", "b"]
    assert found.optima[0].exponents["samples"].low <= 0.5 <= found.optima[0].exponents["samples"].high
    text = printed(law_tables(found, 160), 160)
    best = text[text.index("best for 1 GFLOP of training") :]
    assert "fits" in best and f"(p {found.optima[0].lack_of_fit:.2g})" in best
    save_figure(law_plot(found), tmp_path / "law.png")


def test_a_first_design_of_which_no_run_finished_is_no_end(tmp_path: Path) -> None:
    found = report(tmp_path, failed=tuple(f"a-{depth}" for depth in DEPTHS))
    assert {law.design for law in found.laws if not law.why} == {"b"} and found.advantages == []


def test_a_size_that_failed_is_in_no_law_and_named(tmp_path: Path) -> None:
    found = report(tmp_path, failed=("b-8", "b-5"))
    assert {law.design for law in found.laws} == {"a"} and found.advantages == []
    assert "b-8 is in no law: none of its runs finished" in found.notes
    assert "b, loss by parameters after 6 steps: no law, for there is 3 of 4 sizes" in found.notes


@pytest.mark.usefixtures("bare_training")
@pytest.mark.parametrize("trained", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_command_fits_draws_and_documents(trained: bool, run_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.yaml").write_text(yaml.safe_dump({**as_written(named("a")), "name": "a"}))
    if not trained:
        losses = {(f"a depth={depth}", 0): 0.1 + depth**-0.7 for depth in range(1, 5)}
        monkeypatch.setattr(RunSettings, "train", lambda self, planned, *tell: fake_train(losses, [])(planned))
    done = run_command(
        *("train-toy", "-c", "a.yaml", "--sweep", "model.depth=1..4", "--steps", "2", "--law"),
        *("--set", "model.adaln=identity"),
        *("--report", "r.json", "--plot", "law.svg", "--run-dir", "x"),
    )
    assert done.returncode == 0, done.stderr
    assert "laws: floor" in done.stdout and "One seed:" in done.stdout and "against a" not in done.stdout
    document = json.loads(Path("r.json").read_text())
    Draft202012Validator(document_schema("train-toy")).validate(document)
    laws = document["law"]["laws"]
    assert {law["design"] for law in laws} == {"a"} and len(laws[0]["points"]) == 4
    assert "training FLOPs" in Path("law.svg").read_text() and len(law_plots(document["law"])) == len(
        {(law["figure"], law["variable"]) for law in laws}
    )
    assert json.loads(Path("x/comparison.json").read_text())["law"] == document["law"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--law"], "--law fits three numbers to the sizes of each design"),
        (["--law-budget", "1e9"], "--law-budget is for --law"),
        (["--law", "--sweep", "model.depth=1..4", "--law-budget", "many"], "--law-budget many: expected a number"),
        (["--law", "--sweep", "model.depth=1..4", "--law-budget", "1e9"], "takes 3 lengths of training"),
        (["--law", "--sweep", "model.depth=1..4", "--by", "flops"], "--law: leave out --by flops"),
        (["--law", "--sweep", "model.depth=1..4", "--seeds", "auto"], "give --seeds N in place of auto"),
    ],
)
def test_a_law_that_cannot_be_is_refused_before_anything_is_trained(
    arguments: list[str], message: str, run_command: Any
) -> None:
    Path("a.yaml").write_text(yaml.safe_dump({**as_written(named("a")), "name": "a"}))
    done = run_command("train-toy", "-c", "a.yaml", *arguments)
    assert done.returncode == 2 and message in " ".join(done.stderr.split()) and not Path("runs").exists()
