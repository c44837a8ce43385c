"""Findings tried on the toy: that designs differ in what is said alone, and what their comparison means."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from benchmarks.validity.__main__ import SIZES, main
from benchmarks.validity.document import document, line
from benchmarks.validity.findings import FINDINGS
from benchmarks.validity.itself import AgainstItself, Itself, decided_in_new_pairs
from benchmarks.validity.trials import NotKept, Trial, only_kept, try_finding
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.request.tool_config import load_tool_config
from mmdit_cli.toy import designs
from mmdit_cli.toy.decisions import Decision
from mmdit_cli.toy.run_settings import RunSettings
from mmdit_cli.toy.runs import InTurns
from tests.support.fake_runs import fake_train
from tests.support.marks import slow_but

counted = cache(lambda: count_flops(load_tool_config("ladder/1")))
BETTER, WORSE, SAME = (next(each for each in FINDINGS if each.expected == what) for what in ("better", "worse", "same"))
FOUND = Decision("claimed", "plain", "loss", True, 0, 3, -0.03, -0.05, -0.01, "better")


def trial(finding, size="ladder/1", steps=600, **found) -> Trial:
    return Trial(finding, size, steps, replace(FOUND, **found), 1.0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """FLOPs are counted once; between runs that train nothing there is nothing to collect."""
    monkeypatch.setattr(designs, "count_flops", lambda config: counted())
    monkeypatch.setattr("mmdit_cli.toy.runs.gc.collect", lambda: 0)


@pytest.mark.parametrize("size", slow_but(SIZES, SIZES[0]))
@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.name[:30])
def test_its_designs_differ_in_the_network_or_its_training_and_in_no_data(finding, size):
    plain, claimed = finding.designs(size)
    assert (plain.model, plain.train) != (claimed.model, claimed.train)
    assert plain.name != claimed.name and plain.train.data == claimed.train.data == "scenes"
    assert (plain.train.steps, plain.train.batch_size) == (claimed.train.steps, claimed.train.batch_size)


@pytest.mark.parametrize("known", ["ten times", "own weights", "logit-normal"])
def test_designs_that_are_known_to_differ_can_be_tried_alone(known):
    (only,) = [each for each in FINDINGS if known in each.name]
    assert only.expected == "better"


def test_ten_findings_have_each_a_source():
    assert len(FINDINGS) >= 10 and len({each.name for each in FINDINGS}) == len(FINDINGS)
    assert all("arXiv" in each.source and each.says for each in FINDINGS)


def test_what_is_told_apart_agrees_or_opposes():
    assert trial(BETTER).answer == "agrees"
    assert trial(BETTER, mean=0.03, low=0.01, high=0.05, verdict="worse").answer == "opposes"
    assert trial(BETTER, mean=0.0, low=-0.1, high=0.1, verdict="can't be told apart").answer == "can't tell"
    assert trial(BETTER, n=0, mean=None, low=None, high=None, verdict=None).answer == "failed"
    assert trial(WORSE).answer == "opposes" and trial(WORSE, verdict="worse").answer == "agrees"
    assert replace(trial(WORSE), failed=frozenset(["claimed"])).answer == "agrees"
    early = dict(figure="accuracy, mean", decided=False, low=-0.01, high=0.01, verdict="can't be told apart")
    for finding in (BETTER, SAME):
        assert replace(trial(finding, **early), drawn=(0.0, 0.05)).answer == "too early"
        assert replace(trial(finding, **early), drawn=(0.0, 0.5)).answer != "too early"
    assert replace(trial(BETTER, figure="accuracy, mean"), drawn=(0.1, 0.05)).answer == "agrees"
    diverged = {"agrees": ["plain"], "opposes": ["claimed"], "failed": ["plain", "claimed"]}
    for answer, names in diverged.items():
        failed = replace(trial(BETTER), failed=frozenset(names))
        assert failed.answer == answer and "diverged" in line(failed) and "loss" not in line(failed)
    assert "agrees**: the other design diverged |" in document(
        [BETTER], [("ladder/1", 600)], [replace(trial(BETTER), failed=frozenset(["plain"]))], most=6, command=""
    )


@pytest.mark.parametrize(
    ("low", "high", "figure", "answer"),
    [
        (-0.015, 0.015, "loss", "agrees"),  # within 2 % of a loss of 1
        (0.005, 0.015, "loss", "agrees"),  # though it is known to be worse
        (-0.05, 0.01, "loss", "can't tell"),
        (0.03, 0.05, "loss", "opposes"),
        (-0.05, -0.03, "loss", "opposes"),
        (-0.025, 0.025, "accuracy, mean", "agrees"),
        (-0.2, 0.1, "accuracy, mean", "can't tell"),
    ],
)
def test_two_are_the_same_where_the_whole_interval_counts_as_none(low, high, figure, answer):
    assert trial(SAME, low=low, high=high, mean=(low + high) / 2, figure=figure).answer == answer


def test_the_document_has_a_row_a_finding_and_a_column_a_size_and_its_steps():
    unknown = trial(BETTER, size="ladder/2", mean=None, low=None, high=None, n=2)
    first = replace(trial(BETTER), drawn=(0.25, 0.125), parameters=2.5, flops=1.004)
    trials = [first, trial(BETTER, steps=90, verdict="worse"), unknown, trial(SAME)]
    columns = [("ladder/1", 600), ("ladder/1", 90), ("ladder/2", 600), ("ladder/2", 90)]
    text = document([BETTER, SAME, WORSE], columns, trials, most=6, command="validity --steps 600")
    heading, _, *rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert heading.endswith("| ladder/1, 600 steps | ladder/1, 90 steps | ladder/2, 600 steps | ladder/2, 90 steps |")
    assert rows[0].startswith(
        f"| {BETTER.name} (2.50 times the parameters at ladder/1) | {BETTER.source} | {BETTER.says} | **agrees**"
    )
    assert "-0.0300 (-0.0500 to -0.0100), 3 seeds; 25% and 12% drawn right |" in rows[0]
    assert "**can't tell**: loss unknown, 2 seeds" in rows[0] and rows[1].startswith(f"| {SAME.name} | ")
    assert len(rows) == 3 and rows[2].endswith("| not tried | not tried | not tried | not tried |")
    assert "A guesser gets\n11%" in text
    assert "Not tried is what" in text and "ladder/1, 600 steps: 1 × agrees, 1 × can't tell" in text
    misled = text.split("Where the toy misleads")[1]
    assert f"**{BETTER.name}** (ladder/1, 90 steps)" in misled and WORSE.name not in misled
    text = document([BETTER], columns[::2], [trial(BETTER), trial(BETTER, size="ladder/2")], most=6, command="")
    assert "Not tried" not in text and "nowhere that is known" in text


def test_seeds_are_added_until_it_is_decided(tmp_path):
    gate = next(each for each in FINDINGS if "gate" in each.name)
    plain, claimed = gate.designs("ladder/1")
    losses = {(plain.name, seed): 1.0 + 0.001 * seed for seed in range(6)}
    losses |= {(claimed.name, seed): 0.5 + 0.001 * seed**2 for seed in range(6)}
    ran: list[tuple[str, int]] = []
    found = try_finding(gate, "ladder/1", InTurns(fake_train(losses, ran)), tmp_path, most_seeds=6, settings=[])
    assert found.answer == "agrees" and found.found.mean == pytest.approx(-0.5, abs=0.01) and found.steps == 1000
    assert len(ran) == 2 * found.found.n < 12 and found.loss == pytest.approx(1, abs=0.01) and found.drawn is None


def test_a_page_of_nothing_is_not_written(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["validity", "--kept", "--run-dir", str(tmp_path / "runs"), "--write", str(page)])
    with pytest.raises(SystemExit, match="nothing was tried"):
        main()
    assert not page.exists()


def test_what_was_not_trained_is_not_tried(tmp_path):
    with pytest.raises(NotKept):
        try_finding(BETTER, "ladder/1", InTurns(only_kept), tmp_path, most_seeds=3, settings=["train.steps=1"])
    assert not any(tmp_path.iterdir())


def test_designs_of_several_findings_that_are_one_have_one_name():
    designs = [each for finding in FINDINGS for each in finding.designs("ladder/1")]
    contents = {(each.name, repr(replace(each, name="any"))) for each in designs}
    assert len(contents) == len({name for name, _ in contents}) == len({text for _, text in contents})
    assert sum(each.name == "unchanged" for each in designs) > len(FINDINGS) / 2


def test_a_config_is_held_against_itself_with_seeds_of_which_no_two_are_one(tmp_path):
    rng, ran = np.random.default_rng(0), list[tuple[str, int]]()
    losses = {(name, seed): rng.normal(1, 0.01) for name in ("once", "again") for seed in range(40)}
    losses |= {("again", 8 + 4 + seed): losses["once", 8 + seed] + 0.5 + 0.01 * seed for seed in range(4)}  # by chance
    own = Itself(InTurns(fake_train(losses, ran)), tmp_path, most=4)
    found = own.summary(list(own.comparisons(3)))
    assert len({seed for _, seed in ran}) == len(ran) == len(own.losses) == 22
    assert [each.decided for each in found.found] == [False, True, False] and found.decided == 1
    assert found.found[0].n == 4 and found.found[1].n == 3
    text = document(FINDINGS, [("ladder/1", 600)], [], found, most=6, command="")
    assert "Of 3 comparisons" in text and "1 was decided" in text and "| finding |" not in text


@pytest.mark.parametrize(("decided", "low", "high"), [(0, 0.0, 1 - 0.025**0.05), (1, 0.001265, 0.248733)])
def test_what_twenty_comparisons_tell_of_the_rate_is_the_exact_interval(decided, low, high):
    found = [replace(FOUND, decided=index < decided) for index in range(20)]
    assert AgainstItself(found, 6, 40, None).interval == pytest.approx((low, high), abs=1e-5)


def test_runs_in_new_pairs_are_decided_as_rarely_as_is_asked():
    losses = np.random.default_rng(1).normal(size=240)
    assert 0.01 < decided_in_new_pairs(losses, 6) <= 0.05
    assert decided_in_new_pairs(losses[:11], 6) is None


@pytest.mark.slow
def test_a_config_against_itself_trains_and_is_not_trained_twice(tmp_path, monkeypatch):
    run = RunSettings(torch.device("cpu"), torch.float32, resume=True)
    first = list(Itself(InTurns(run.train), tmp_path, most=3, steps=2).comparisons(1))
    monkeypatch.setattr("mmdit_cli.toy.run_settings.train", lambda *given, **named: pytest.fail("trained again"))
    assert list(Itself(InTurns(run.train), tmp_path, most=3, steps=2).comparisons(1)) == first
    assert first[0].n == 3 and len(list(tmp_path.iterdir())) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("bare_training")
@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.name[:30])
def test_every_finding_trains(finding, tmp_path):
    tiny = [
        "train.steps=2",
        "train.batch_size=6",
        "train.evaluation_samples=6",
        "train.sampler.steps=1",
        "train.evaluate_every=0",
    ]
    runner = InTurns(RunSettings(torch.device("cpu"), torch.float32, resume=True).train)
    found = try_finding(finding, "ladder/1", runner, tmp_path, most_seeds=3, settings=tiny)
    assert found.found.n == 3 and found.answer != "failed" and found.drawn is not None and found.steps == 2
