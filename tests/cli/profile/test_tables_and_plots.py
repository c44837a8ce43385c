"""The tables and pictures of profiles: every figure is a view of the result."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from mmdit_cli.memory.demand import Demand
from mmdit_cli.memory.tables import estimate_tables
from mmdit_cli.memory.verdict import judge_memory
from mmdit_cli.output.figures import save_figure
from mmdit_cli.profile import ceilings
from mmdit_cli.profile.conditions import Conditions
from mmdit_cli.profile.growth import fit_growth
from mmdit_cli.profile.measurement import profile_configs
from mmdit_cli.profile.plots import profile_plot
from mmdit_cli.profile.profile_settings import Settings
from mmdit_cli.profile.tables import ALIKE, profile_tables
from tests.support.marks import slow_but
from tests.support.small_configs import config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def results():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ceilings, "GEMM_SHAPES", ((64, 64, 64),))
        patch.setitem(ceilings.STREAM_BYTES, "cpu", (3 << 10, 3 << 12))
        patch.setitem(ceilings.LOOK_SECONDS, "cpu", 0.0)
        both = [config(depth=1), config()]
        pair = profile_configs(both, Settings(repeats=7))
        (train,) = profile_configs(both[:1], Settings(mode="train", repeats=2))
        points = [{"run.tokens.image": n, "run.batch_size": b} for n in (8, 32) for b in (1, 2)]
        runs = [{"tokens": {"text": 4, "image": n}, "batch_size": b} for n in (8, 32) for b in (1, 2)]
        swept = [config(run, depth=1) for run in runs]
        sweep = profile_configs(swept, Settings(repeats=2), points=points)
    return {"pair": pair, "train": [train], "sweep": sweep}


def text_of(tables, width):
    out = io.StringIO()
    console = Console(file=out, width=width)
    for table in tables:
        console.print(table)
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 80, 130])
@pytest.mark.parametrize("which", ["pair", "train", "sweep"])
def test_tables_keep_to_the_screen(which, width, results):
    chosen = results[which]
    text = text_of(profile_tables(chosen, width, fit_growth(chosen) if which == "sweep" else []), width)
    assert max(map(len, text.splitlines())) <= width
    wanted = {"pair": "latency", "train": "of limit", "sweep": "growth"}[which]
    assert wanted in text


def test_two_configs_are_told_apart_or_it_is_said_that_they_are_not(results):
    pair = results["pair"]
    text = " ".join(text_of(profile_tables(pair, 120), 120).split())
    ratio = pair[1].ratio
    assert f"{ratio.ratio:.3f} ({ratio.low:.3f} to {ratio.high:.3f})" in text
    assert (ALIKE in text) == (not ratio.distinguishable)


def test_training_shows_its_phases_and_every_component_its_limit(results):
    (train,) = results["train"]
    text = text_of(profile_tables([train], 100), 100)
    assert all(re.search(rf"^ +{phase} +\S", text, re.M) for phase in ("forward", "backward", "optimizer"))
    row = next(row for row in train.components if row.name == "feedforward, image")
    assert row.bound.limited_by in ("compute", "memory") and row.bound.of_measured > 0
    assert sum(row.bound.ms for row in train.components if row.bound) > 0


@pytest.mark.parametrize("which", ["pair", "sweep"])
def test_of_a_busy_machine_it_is_said_above_and_no_limit_is(which, results):
    busy = Conditions(2, 4.0, 0.5, quiet=False, notices=["Others took 50.0% of the 2 cores' time."])
    text = text_of(profile_tables(results[which], 200, (), busy), 200)
    assert text.startswith(busy.notices[0])
    withheld = ("bound by", "of limit", "of the limit", "(memory)", "(compute)")
    assert not any(word in text.split("FLOPs: 2")[0] for word in withheld)
    assert "of limit" in text_of(profile_tables(results[which], 200), 200)


def test_what_was_faster_than_can_be_is_named(results):
    def notes(chosen):
        return " ".join(text_of(profile_tables(chosen, 500), 500).split())

    def limited(bound, share):
        return bound and replace(bound, of_measured=share)

    (train,) = results["train"]
    quiet = replace(
        train,
        bound=limited(train.bound, 0.9),
        components=[replace(row, bound=limited(row.bound, 1.0)) for row in train.components],
    )
    assert "Above 100%" not in notes([quiet])
    first, *others = quiet.components
    above = replace(quiet, components=[replace(first, bound=limited(first.bound, 4.29)), *others])
    assert f"Above 100% of the limit: {first.name} (429.0%). No work can be: the machine's ceilings" in notes([above])
    assert f"limit: {first.name} of small (429.0%)." in notes([above, replace(quiet, config="b")])
    whole = replace(quiet, bound=limited(quiet.bound, 1.1), point={"run.batch_size": 2})
    assert "limit: small run.batch_size=2 (110.0%)." in notes([whole, replace(whole, bound=quiet.bound)])


def test_designs_given_other_batches_are_said_to_be(results):
    first, second = results["pair"]
    said = "Other batch × tokens: ratios are of whole batches"
    assert said not in text_of(profile_tables([first, second], 500), 500)
    assert said in text_of(profile_tables([first, replace(second, batch_size=99)], 500), 500)


@pytest.mark.parametrize(("packed", "of"), [(True, "of valid tokens alone"), (False, "of all tokens, the padding")])
def test_figures_a_token_say_which_tokens(packed, of, results):
    (train,) = results["train"]
    text = " ".join(text_of(profile_tables([train], 500), 500).split())
    assert "Padding" not in text and " tokens/s " in text
    padded = replace(train, valid_tokens={"text": 3, "image": 9}, packed=packed, tokens_per_s=64, valid_tokens_per_s=48)
    text = " ".join(text_of(profile_tables([padded], 500), 500).split())
    assert "tokens/s, with padding 64 valid tokens/s 48" in text
    assert "Padding: (3 + 9) of a sample's tokens are valid. FLOPs are " + of in text


@pytest.mark.parametrize("which", slow_but(["pair", "train", "sweep"], "train", "sweep"))
def test_pictures_are_drawn_with_every_component_and_point(which, results, tmp_path):
    chosen = results[which]
    figure = profile_plot(chosen)
    save_figure(figure, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    if which == "sweep":
        latency = figure.axes[0]
        drawn = sorted(y for line in latency.lines for y in line.get_ydata())
        assert drawn == pytest.approx(sorted(r.latency_ms.median / 1e3 for r in chosen))
        assert {line.get_label() for line in latency.lines} == {"batch_size 1", "batch_size 2"}
        return
    assert len(figure.axes) == len(chosen)
    for axes, result in zip(figure.axes, chosen, strict=True):
        places = [tuple(place) for marks in axes.collections for place in marks.get_offsets().tolist()]
        assert (result.bound.intensity, result.achieved_flops_per_s) in [pytest.approx(place) for place in places]
        assert len(places) == 1 + sum(1 for row in result.components if row.flops)


@pytest.mark.slow
def test_estimates_of_a_sweep_are_rows():
    points = [{"run.batch_size": b} for b in (1, 2)]
    chosen = [
        judge_memory(Demand(config(p_run), "train", torch.float32, CPU), 10**9, p)
        for p, p_run in zip(points, ({"batch_size": 1}, {"batch_size": 2}), strict=True)
    ]
    text = text_of(estimate_tables(chosen, 80), 80)
    assert "batch_size" in text and text.count("yes") == 2
