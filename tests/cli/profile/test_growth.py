from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmdit_cli.profile.growth import fit_growth, swept_variables


def result(point, *, ms, bytes_=1000.0, config="c", text=10, held=7):
    tokens = {"text": text, "image": point.get("run.tokens.image", 5)}
    memory = SimpleNamespace(peak=bytes_ + 2 * held, weights=held, optimizer=held)
    latency = SimpleNamespace(median=ms)
    return SimpleNamespace(config=config, point=point, tokens=tokens, latency_ms=latency, memory_bytes=memory)


def grid(time, memory=lambda n, b: float(n * b), images=(90, 190, 790), batches=(1, 4)):
    return [
        result({"run.tokens.image": n, "run.batch_size": b}, ms=time(n + 10, b), bytes_=memory(n + 10, b))
        for n in images
        for b in batches
    ]


def rows(results):
    return {(row.figure.split()[0], row.variable): row for row in fit_growth(results)}


def test_a_power_law_is_found_whatever_else_is_swept():
    found = rows(grid(lambda n, b: 3 * n**1.5 * b**0.8, lambda n, b: 2 * n * b))
    assert found["time", "tokens"].exponent == pytest.approx(1.5)
    assert found["time", "batch size"].exponent == pytest.approx(0.8)
    assert found["memory", "tokens"].exponent == pytest.approx(1.0)  # what is held whatever the tokens is apart
    row = found["time", "tokens"]
    assert (row.smallest, row.largest) == (100, 800)
    assert (row.first, row.last, row.worst) == pytest.approx((1.5, 1.5, 1.0))
    assert found["time", "batch size"].first is None  # two values have one exponent


def test_linear_work_that_becomes_quadratic_shows_at_the_ends():
    row = rows(grid(lambda n, b: 1000 * n + n * n))["time", "tokens"]
    assert 1 < row.first < row.exponent < row.last < 2
    assert row.worst > 1.01


def test_points_that_were_left_out_leave_open_what_they_would_tell():
    def without(*missing):
        whole = grid(lambda n, b: 3 * n**1.5 * b**0.8)
        return rows([r for r in whole if tuple(r.point.values()) not in missing])["time", "tokens"]

    row = without((90, 4))
    assert (row.exponent, row.first, row.last) == pytest.approx((1.5, 1.5, 1.5))
    row = without((90, 1), (190, 4))  # between the smallest two, tokens and batch size change together
    assert row.exponent == pytest.approx(1.5) and row.first is None and row.last == pytest.approx(1.5)


def test_every_config_has_its_own_growth():
    results = [
        result({"run.tokens.image": n}, ms=float(n + 10) ** power, config=name)
        for name, power in (("a", 1), ("b", 2))
        for n in (90, 190)
    ]
    assert {(r.config, round(r.exponent, 6)) for r in fit_growth(results) if r.figure == "time"} == {("a", 1), ("b", 2)}


def test_what_never_moves_apart_or_is_no_number_is_not_fitted():
    together = [result({"run.tokens.image": n, "model.depth": n}, ms=1.0 * n) for n in (10, 20, 40)]
    assert [r.variable for r in fit_growth([result({"model.adaln": x}, ms=1.0) for x in ("a", "b")])] == []
    same = [result({"run.batch_size": b, "model.depth": b}, ms=1.0 * b) for b in (1, 2, 4)]
    assert fit_growth(same) == []
    assert list(swept_variables(together)) == ["tokens", "model.depth"]
