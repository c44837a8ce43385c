"""Ceilings look by look, against rates that are made up."""

from __future__ import annotations

import pytest
import torch

from mmdit_cli.profile import ceilings
from mmdit_cli.profile.ceilings import CeilingMeter, measure_rate

CPU, FP32 = torch.device("cpu"), torch.float32
SMALL, LARGE, SLOW = (2, 2, 2), (4, 4, 4), (8, 8, 8)
CACHE, MEMORY = 3 << 10, 3 << 12
RATES = {SMALL: 98.0, LARGE: 100.0, SLOW: 50.0, CACHE: 30.0, MEMORY: 10.0}


@pytest.fixture(autouse=True)
def _few_candidates(monkeypatch):
    monkeypatch.setattr(ceilings, "GEMM_SHAPES", (LARGE, SLOW, SMALL))
    monkeypatch.setitem(ceilings.STREAM_BYTES, "cpu", (CACHE, MEMORY))


class Machine:
    """Has these rates, times a factor that may change, and notes what is asked."""

    def __init__(self) -> None:
        self.factor, self.asked = 1.0, []

    def __call__(self, candidate):
        self.asked.append(candidate)
        return RATES[candidate] * self.factor


def meter_of(machine, *, age_s: float | None = None) -> CeilingMeter:
    """One that knows all rates of an earlier run where they have an age."""
    meter = CeilingMeter(CPU, FP32, measure=machine)
    if age_s is not None:
        meter.know(RATES, age_s)
    return meter


def test_a_survey_looks_at_everything_once_and_then_at_the_best_again():
    machine = Machine()
    meter = meter_of(machine)
    meter.survey()
    assert sorted(map(str, machine.asked)) == sorted(map(str, RATES))
    found = meter.ceilings()
    assert (found.gemm_flops_per_s, found.gemm_shape, found.bytes_per_s) == (100.0, LARGE, 10.0)
    assert [stream.bytes_per_s for stream in found.streams] == [30.0, 10.0] and found.age_s is None
    machine.asked.clear()
    for _ in range(4):
        meter.look()
    assert machine.asked.count(MEMORY) == 2 and {SMALL, LARGE} == {*machine.asked} - {MEMORY}


def test_what_is_known_is_not_looked_at_but_for_the_best():
    machine = Machine()
    meter = meter_of(machine, age_s=60.0)
    meter.survey()
    meter.finish()
    assert {*machine.asked} == {SMALL, MEMORY}  # the product of least work among the best
    found = meter.ceilings()
    assert (found.gemm_flops_per_s, found.age_s, found.reached) == (100.0, 60.0, pytest.approx(1.0))


def test_a_product_of_a_model_is_tried_beside_them_and_a_large_one_is_cut():
    meter = meter_of(lambda candidate: 1.0, age_s=1.0)
    meter.add([(16, 4, 4), (10**9, 10, 10)])
    meter.survey()
    tried = [shape for shape in meter.seen if shape not in RATES]
    assert tried == [(16, 4, 4), (int(2e10 / 200), 10, 10)]


def test_a_machine_that_has_become_slower_reaches_less_than_is_known():
    machine = Machine()
    machine.factor = 0.6
    meter = meter_of(machine, age_s=3600.0)
    meter.survey()
    assert meter.ceilings().reached == pytest.approx(0.6) and meter.ceilings().gemm_flops_per_s == 100.0


def test_where_the_machine_is_far_faster_nothing_of_what_was_known_is_believed():
    machine = Machine()
    machine.factor = 1.5
    meter = meter_of(machine, age_s=3600.0)
    meter.survey()
    found = meter.ceilings()
    assert found.age_s is None and found.gemm_flops_per_s == 150.0 and found.streams[0].bytes_per_s == 45.0


def test_a_little_faster_is_the_new_best_and_the_rest_stays_known():
    machine = Machine()
    machine.factor = 1.1
    meter = meter_of(machine, age_s=3600.0)
    meter.survey()
    found = meter.ceilings()
    assert (found.bytes_per_s, found.streams[0].bytes_per_s, found.age_s) == (11.0, 30.0, 3600.0)
    assert found.reached == 1.0


def test_ceilings_say_how_much_of_them_held():
    machine = Machine()
    meter = meter_of(machine)
    meter.survey()
    machine.factor = 0.5
    meter.finish()
    assert meter.ceilings().kept == pytest.approx(0.5) and meter.ceilings().gemm_flops_per_s == 100.0
    machine = Machine()
    meter = meter_of(machine)
    meter.finish()
    assert meter.ceilings().kept == 1.0


@pytest.mark.parametrize("candidate", [(64, 32, 16), 3 << 12])
def test_a_rate_is_work_over_the_fastest_time(candidate, monkeypatch):
    times = iter([5.0, 2.0, 9.0])
    now = iter([0.0, 0.0, 1.0])
    monkeypatch.setattr(ceilings, "Stopwatch", lambda device: lambda call: next(times))
    monkeypatch.setattr(ceilings.time, "perf_counter", lambda: next(now))
    monkeypatch.setitem(ceilings.TIMED_BYTES, "cpu", 3 << 14)
    work = 3 << 14 if isinstance(candidate, int) else 2 * 64 * 32 * 16
    assert measure_rate(CPU, FP32, candidate) == work / 2.0
