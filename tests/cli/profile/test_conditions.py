"""What else the machine did while a profile was measured, and what is withheld then."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from mmdit_cli.profile import conditions
from mmdit_cli.profile.conditions import CoreWatch, judge


def watch(taken=0.0, load=0.1, cores=4):
    return SimpleNamespace(taken_by_others=lambda: taken, load_average=load, cores=list(range(cores)))


def measured(p10=1.0, p90=1.1, kept=0.95, age_s=None, reached=1.0):
    latency = SimpleNamespace(p10=p10, p90=p90)
    ceiling = SimpleNamespace(kept=kept, age_s=age_s, reached=reached)
    return SimpleNamespace(config="a", latency_ms=latency, ceiling=ceiling, compiled=False, attributed_by="kernels")


def test_a_quiet_machine_is_nothing_to_mention():
    found = judge([measured()], watch(), on_cpu=True)
    assert found.quiet and found.notices == [] and (found.cores, found.load_average) == (4, 0.1)


@pytest.mark.parametrize(
    ("result", "machine", "sentence"),
    [
        (measured(), watch(taken=0.35, load=3), "Others took 35.0% of the 4 cores' time (load average 3 before)."),
        (measured(), watch(taken=None, load=3), "The load average was 3 on 4 cores before measuring."),
        (measured(p90=2.0), watch(), "Rounds of a differed: p90 is 2 times p10."),
        (measured(kept=0.5), watch(), "The machine's ceilings differed by 50.0% between the start and the end."),
        (
            measured(age_s=7200.0, reached=0.7),
            watch(),
            "The machine reached 70.0% of the ceilings of 2 h 00 min ago (--fresh measures them again).",
        ),
    ],
)
def test_each_sign_of_a_busy_machine_is_said(result, machine, sentence):
    found = judge([measured(), result], machine, on_cpu=True)
    assert not found.quiet and found.notices[0] == sentence and len(found.notices) == 2


def test_a_card_does_not_mind_busy_cores():
    assert judge([measured()], watch(taken=0.9, load=40), on_cpu=False).quiet


def test_what_others_take_is_what_the_cores_did_and_this_process_did_not(monkeypatch):
    """Two cores, 10 s: they were busy for 12 s, of which this process took 7."""
    clock, busy, own = iter((100.0, 110.0)), iter((50.0, 62.0)), iter(((1, 2, 0, 0, 0), (5, 3, 1, 1, 0)))
    monkeypatch.setattr(conditions, "_cores", lambda: [0, 1])
    monkeypatch.setattr(conditions, "_busy_seconds", lambda cores: next(busy))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(os, "times", lambda: next(own))
    with CoreWatch() as watch:
        assert watch.taken_by_others() is None
    assert watch.taken_by_others() == pytest.approx((12 - 7) / 20)


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="the system does not say")
def test_the_system_says_how_busy_its_cores_were():
    seconds = conditions._busy_seconds(conditions._cores())
    assert 0 < seconds < time.clock_gettime(time.CLOCK_BOOTTIME) * len(conditions._cores()) * 1.1
