"""Statistics against their definitions; rounds, warm-up and comparisons against clocks that are made up."""

from __future__ import annotations

import math
import random

import pytest
import torch

from mmdit_cli.profile.statistics import compare, is_known
from mmdit_cli.profile.timing import Rounds, Stopwatch, run_rounds, warm_up
from tests.support.marks import slow_but


@pytest.fixture(autouse=True)
def _no_waiting_for_the_garbage_collector(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # 0.2 s each, and these rounds are simulated


def fake_stopwatch(times):
    iterator = iter(times)
    return lambda call: next(iterator)


def rounds_of(times, **options):
    (taken,) = run_rounds([print], fake_stopwatch(times), **options)
    return len(taken)


def test_measuring_stops_when_the_median_is_known():
    assert rounds_of([1.0] * 100, max_seconds=1e9) == 6
    noisy = [1.0, 2.0] * 500
    assert rounds_of(noisy, max_seconds=20) == 14  # 20 s are up
    assert rounds_of(noisy, repeats=7) == 7
    assert rounds_of([100.0] * 9, max_seconds=1) == 3
    assert is_known([1.0] * 6, 0.0) and not is_known([1.0] * 5, 1.0)


def test_warming_up_ends_when_two_runs_agree():
    assert warm_up(print, fake_stopwatch([9.0, 3.0, 1.0, 1.02, 1.0]), max_seconds=100) == [9.0, 3.0, 1.0, 1.02]
    assert warm_up(print, fake_stopwatch([3.0, 1.0, 2.0]), max_seconds=100) == [3.0, 1.0, 2.0]  # noise warms nothing
    assert len(warm_up(print, fake_stopwatch([0.8**n for n in range(50)]), max_seconds=1e9)) == 20
    assert len(warm_up(print, fake_stopwatch([50.0, 20.0, 1.0]), max_seconds=1)) == 2
    assert len(warm_up(print, fake_stopwatch([50.0, 0.5, 0.3, 0.1]), max_seconds=0.7)) == 3  # the first apart
    assert warm_up(print, fake_stopwatch([1.0]), times=[50.0, 2.0], max_seconds=1) == [50.0, 2.0]
    assert len(warm_up(print, fake_stopwatch([0.001] * 200))) == 100  # a tenth of a second, for clocks to rise
    assert warm_up(print, fake_stopwatch([1.0, 1.02, 9.0]), times=[3.0], max_seconds=100) == [3.0, 1.0, 1.02]


def test_events_are_recorded_on_the_streams_of_the_device_that_is_timed(monkeypatch):
    happened: list[object] = []

    class Event:
        def __init__(self, enable_timing):
            pass

        def record(self, stream):
            happened.append(stream)

        def elapsed_time(self, other):
            return 2500.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: happened.append(f"wait for {device}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    assert Stopwatch(torch.device("cuda:1"))(lambda: happened.append("call")) == 2.5
    assert happened == ["wait for cuda:1", "stream of cuda:1", "call", "stream of cuda:1", "wait for cuda:1"]


def test_every_round_has_every_call_once_and_the_order_changes():
    ran: list[str] = []
    calls = [lambda name=name: ran.append(name) for name in "abc"]
    rounds = Rounds(calls, lambda call: call() or 1.0, beside=[lambda: ran.append("x")])
    rounds.run(repeats=30, known=lambda: False, beside_known=lambda: len(rounds.others[0]) == 10)
    assert [len(t) for t in rounds.times] == [30] * 3 and len(rounds.others[0]) == 10
    orders = ["".join(ran[i : i + 4]) for i in range(0, 40, 4)]
    assert all(sorted(order) == list("abcx") for order in orders) and len(set(orders)) > 3
    assert len(ran) == 10 * 4 + 20 * 3


def test_rounds_end_when_all_is_known_and_what_is_beside_takes_its_part_of_the_time():
    rounds = Rounds([print], lambda call: 1.0, beside=[print])
    rounds.run(known=lambda: len(rounds.times[0]) == 4)
    assert [len(rounds.times[0]), len(rounds.others[0])] == [4, 4]
    rounds = Rounds([print], lambda call: 1.0, beside=[print])
    rounds.run(known=lambda: False, max_seconds=10)
    assert [len(rounds.times[0]), len(rounds.others[0])] == [5, 5]
    rounds = Rounds([print], lambda call: 1.0)
    rounds.run(known=lambda: False, max_seconds=4.5)
    assert len(rounds.times[0]) == 4  # a fifth would take them beyond


@pytest.mark.parametrize(("seconds", "untimed"), [(0.05, 2), (0.5, 0)])
def test_a_short_call_is_made_once_untimed_after_what_drove_the_caches_out(seconds, untimed):
    ran: list[int] = []
    rounds = Rounds([lambda: ran.append(1)], lambda call: call() or seconds)
    rounds.run(repeats=5, known=lambda: False, pause=lambda count: count in (2, 4))
    assert len(ran) == 5 + untimed and len(rounds.times[0]) == 5


def test_a_round_that_is_broken_off_leaves_what_was_measured():
    def stopwatch(call):
        if len(rounds.times[0]) == 3:
            raise KeyboardInterrupt
        return 1.0

    rounds = Rounds([print], stopwatch)
    with pytest.raises(KeyboardInterrupt):
        rounds.run(known=lambda: False)
    assert rounds.times == [[1.0] * 3]


def machine(seed: int, factor: float = 1.0):
    """A stopwatch on a machine that drifts as a random walk, swings, and stalls now and then for any length."""
    rng, state = random.Random(seed), [0.0, 0]

    def stopwatch(call):
        state[0] += rng.gauss(0, 0.02)
        state[1] += 1
        swing = 1 + 0.2 * math.sin(state[1] / 7 + seed)
        stall = rng.paretovariate(1.1) if rng.random() < 0.05 else 1
        return 0.01 * math.exp(state[0] + rng.gauss(0, 0.03)) * swing * stall * call()

    return stopwatch


@pytest.mark.parametrize(
    "options", slow_but([{"repeats": 6}, {"repeats": 25}, {"max_seconds": 0.3}], {"repeats": 6}), ids=str
)
def test_identical_calls_are_told_apart_at_most_once_in_twenty_times(options):
    times, told_apart = 1000, 0
    for seed in range(times):
        a, b = run_rounds([lambda: 1.0, lambda: 1.0], machine(seed), seed=seed, **options)
        told_apart += compare(b, a, to="a").distinguishable
    assert told_apart <= times // 20


def test_a_tenth_more_is_told_apart_through_the_same_noise():
    seen = 0
    for seed in range(100):
        a, b = run_rounds([lambda: 1.0, lambda: 1.1], machine(seed), seed=seed, repeats=60)
        seen += compare(b, a, to="a").distinguishable
    assert seen >= 90
