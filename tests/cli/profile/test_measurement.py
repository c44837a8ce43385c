"""The profile as a whole: its parts agree with one another, and with torch where it can be asked."""

from __future__ import annotations

import pytest
import torch

from mmdit.config import build
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.model_parts.timed_call import Call
from mmdit_cli.output.units import flops as flop_text
from mmdit_cli.profile import measurement, subject
from mmdit_cli.profile.early_end import EarlyEnd
from mmdit_cli.profile.least_work import count_work
from mmdit_cli.profile.measurement import profile_configs
from mmdit_cli.profile.profile_settings import Settings
from mmdit_cli.request.inputs import example_inputs
from tests.support.leftovers import models_left
from tests.support.marks import slow_but
from tests.support.small_configs import BATCH, config

WIDE = {"modalities": {"text": {"dim": 64}, "image": {"dim": 64}}}
TOKENS = {"tokens": {"text": 64, "image": 256}}


pytestmark = pytest.mark.usefixtures("quick_ceilings")


@pytest.mark.slow
def test_of_a_call_that_takes_long_is_told_before_it_is_made(monkeypatch):
    told = []
    given = [config(TOKENS, **WIDE)]
    profile_configs(given, Settings(repeats=1), on_message=told.append)
    assert not told
    monkeypatch.setattr(measurement, "SLOW", 0.0)
    monkeypatch.setattr(measurement, "_measure", lambda *args: pytest.fail("measured") if not told else None)
    monkeypatch.setattr(measurement, "make_result", lambda *args: None)
    profile_configs(given, Settings(repeats=1), on_message=told.append)
    flops = count_flops(given[0]).forward_flops
    assert len(told) == 1 and told[0].startswith(f"small: a call takes {flop_text(flops)}, here ")


@pytest.mark.parametrize("mode", slow_but(["forward", "train"], "train"))
def test_a_profile_adds_up(mode):
    stages = []
    (result,) = profile_configs(
        [config(TOKENS, **WIDE)],
        Settings(mode=mode, repeats=3, max_seconds=1),
        on_progress=lambda stage, *_: stages.append(stage),
    )
    rows = result.components
    assert 0.999 <= sum(row.time_ms for row in rows) / result.latency_ms.median <= 1
    assert 0.999 <= sum(result.phases_ms.values()) / result.latency_ms.median <= 1
    assert set(result.phases_ms) == ({"forward", "backward", "optimizer"} if mode == "train" else {"forward"})
    assert sum(row.parameters for row in rows) == result.parameters
    assert sum(row.flops for row in rows) == result.flops
    assert "other" in {row.name for row in rows}
    assert all(row.backward_ms > 0 for row in rows if row.kind == "feedforward") == (mode == "train")
    assert all(
        row.time_ms == pytest.approx(row.forward_ms + row.backward_ms) for row in rows if row.kind != "optimizer"
    )
    assert result.latency_ms.runs == 3 + result.hooked_runs
    assert result.instrumented.rounds == 3 and result.attributed_by == "hooks"
    assert result.utilization == pytest.approx(result.achieved_flops_per_s / result.ceiling.gemm_flops_per_s)
    assert result.samples_per_s == pytest.approx(BATCH / (result.latency_ms.median / 1e3))
    assert result.bound.of_measured == pytest.approx(result.bound.ms / result.latency_ms.median)
    assert {"ceilings", "small: warming up", "small: measuring", "small: first calls"} <= set(stages)


def test_several_configs_are_measured_in_the_same_rounds_and_the_first_is_the_reference():
    first, second = profile_configs([config(), config(depth=1)], Settings(repeats=6), points=[{"d": 2}, {"d": 4}])
    assert first.ratio is None and (first.point, second.point) == ({"d": 2}, {"d": 4})
    assert (second.ratio.to, second.ratio.rounds) == ("small", 6)
    assert second.ratio.low <= second.ratio.ratio <= second.ratio.high


@pytest.mark.slow
def test_configs_that_do_not_fit_together_leave_nothing_for_those_after_them(monkeypatch):
    monkeypatch.setattr(measurement, "groups_that_fit", lambda models, *_, **__: [[0, 1], [2]])
    with models_left(monkeypatch, subject) as left:
        profile_configs([config(depth=depth) for depth in (1, 2, 3)], Settings(mode="train", repeats=1, max_seconds=0))
    assert left == [0, 1, 0]  # the first two share their rounds


@pytest.mark.slow
def test_configs_of_one_model_share_its_weights_and_others_do_not(monkeypatch):
    built = []
    monkeypatch.setattr(subject, "build", lambda model, **kind: built.append(model) or build(model, **kind))
    longer = config({"tokens": {"text": 3, "image": 4}})
    profile_configs([config(), longer, config(depth=1)], Settings(repeats=1))
    assert [model.depth for model in built] == [2, 1]


def test_the_call_that_is_weighed_warms_up_and_the_fastest_tells_the_time_until_there_are_rounds():
    settings, given = Settings(), config()
    work = count_work(given, train=False, device=settings.device, dtype=settings.dtype)
    weighed = subject.Subject(given, {}, work, warm_up=[900.0])
    (call,) = subject.build_calls([weighed], settings)
    weighed.weigh(call, settings, tells_shares=True)
    assert weighed.first_parts and weighed.memory.peak > 0
    first, own = weighed.warm_up
    assert first == 900 and 0 < own < 900
    weighed.warm_up.append(901.0)
    assert weighed.known_runs == [own]
    weighed.times.append(902.0)
    assert weighed.known_runs == [902]


@pytest.mark.slow
def test_results_are_there_after_the_first_two_calls_and_sharpen():
    seen = []
    profile_configs([config()], Settings(repeats=3), on_results=lambda make: seen.append(make()[0]) or True)
    first, *_, last = seen
    assert first.latency_ms.runs == 0 and first.components and first.memory_bytes.peak > 0
    assert last.latency_ms.runs >= 3


def test_a_key_ends_a_profile_with_what_is_known():
    early = EarlyEnd(lambda: early.asked.append(1) or len(early.asked) > 3)
    early.asked = []
    results = profile_configs([config(depth=1)] * 2, Settings(repeats=50), early=early)
    assert early.reason == "key" and [result.latency_ms.runs > 0 for result in results] == [True, True]
    assert "Ended early, by a key: times are of" in " ".join(early.notices(results, 2))
    early = EarlyEnd(lambda: True)
    (only,) = profile_configs([config(depth=1)] * 2, Settings(repeats=50), early=early)
    said = early.notices([only], 2)
    assert only.latency_ms.runs == 0 and "of warming up" in said[0]
    assert said[1] == "1 of 2 configs or points were not measured."


@pytest.mark.parametrize("interruptible", slow_but([True, False], True))
def test_ctrl_c_does_so_where_it_may(interruptible):
    def interrupt(make):
        raise KeyboardInterrupt

    early = EarlyEnd(interruptible=interruptible)
    if not interruptible:
        with pytest.raises(KeyboardInterrupt):
            profile_configs([config()], Settings(repeats=2), early=early, on_results=interrupt)
        return
    (result,) = profile_configs([config()], Settings(repeats=2), early=early, on_results=interrupt)
    assert early.reason == "interrupt" and result.latency_ms.runs == 0


@pytest.mark.slow
@pytest.mark.parametrize("cold", [False, True])
def test_the_result_says_what_the_caches_held(cold):
    (result,) = profile_configs([config(depth=1)], Settings(repeats=1, cold=cold))
    assert result.caches == ("cold" if cold else "warm")


@pytest.mark.parametrize("streams", [1, 2])
def test_profiling_leaves_the_weights_as_they_were(streams):
    chosen = config(residual={"kind": "plain" if streams == 1 else "hyper_connections", "streams": streams})
    net = build(chosen.model)
    before = {name: x.clone() for name, x in net.state_dict().items()}
    Call(net, example_inputs(chosen), chosen, "train")()
    assert all(torch.equal(before[name], x) for name, x in net.state_dict().items())


def test_hooks_are_gone_after_a_profile():
    from mmdit_cli.model_parts.components import find_components
    from mmdit_cli.profile.clock import Attribution

    net = build(config().model)
    with Attribution(find_components(net)):
        assert any(module._forward_hooks for module in net.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
