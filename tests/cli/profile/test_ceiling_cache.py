"""Ceilings kept between runs: what is believed, and what is measured anew."""

from __future__ import annotations

import json

import pytest
import torch

from mmdit_cli.profile import ceiling_cache
from mmdit_cli.profile.ceiling_cache import CeilingCache, cache_folder

CPU, FP32 = torch.device("cpu"), torch.float32
RATES = {(1024, 1024, 1024): 2.0e11, (64, 32, 16): 1.5e11, 3 << 20: 9e10, 3 << 26: 4.5e10}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return CeilingCache(CPU, FP32, clock=lambda: 1000.0)


def test_rates_are_read_as_they_were_saved(cache, tmp_path):
    assert cache.load() is None
    cache.save(RATES)
    kept = cache.load()
    assert kept.rates == RATES and kept.measured == 1000.0
    assert cache.path.is_relative_to(tmp_path / "cache" / "mmdit")
    cache.save(RATES, measured=400.0)
    assert cache.load().measured == 400.0


def test_each_dtype_number_of_threads_machine_and_torch_has_its_own(cache, monkeypatch):
    paths = {cache.path, CeilingCache(CPU, torch.bfloat16).path}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    paths.add(CeilingCache(CPU, FP32).path)
    monkeypatch.setattr(ceiling_cache, "device_name", lambda name: "another")
    paths.add(CeilingCache(CPU, FP32).path)
    monkeypatch.setattr(torch, "__version__", "9.9")
    paths.add(CeilingCache(CPU, FP32).path)
    assert len(paths) == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[" * 60000,
        lambda text: text + " " * (1 << 16),
        lambda text: "[]",
        lambda text: text.replace('"float32"', '"float16"'),
        lambda text: text.replace("1000.0", "1000.5"),
        lambda text: text.replace("1000.0", "NaN"),
        lambda text: text.replace("1000.0", "null"),
        lambda text: text.replace("200000000000.0", "Infinity"),
        lambda text: text.replace("200000000000.0", "-1"),
        lambda text: text.replace("200000000000.0", "true"),
        lambda text: text.replace("200000000000.0", "1" + "0" * 400),
        lambda text: text.replace("1024, 1024, 1024", "1024, 0, 1024"),
        lambda text: text.replace("1024, 1024, 1024", "1024, 1024"),
        lambda text: text.replace("1024, 1024, 1024", '1024, "1024", 1024'),
        lambda text: json.dumps(json.loads(text) | {"streams": []}),
        lambda text: json.dumps(json.loads(text) | {"products": {}}),
    ],
)
def test_what_is_damaged_or_of_another_machine_counts_as_none(change, cache):
    cache.save(RATES)
    cache.path.write_text(change(cache.path.read_text()))
    assert cache.load() is None
    cache.save(RATES)
    assert cache.load().rates == RATES


def test_a_folder_that_cannot_be_written_keeps_nothing_and_is_no_error(cache):
    cache.path.parent.parent.parent.write_text("in the way")
    cache.save(RATES)
    assert cache.load() is None


def test_the_folder_is_that_of_the_users_caches_and_a_missing_home_is_not_made(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    assert cache_folder() == tmp_path / "missing" / ".cache" / "mmdit"
    CeilingCache(CPU, FP32).save(RATES)
    assert not (tmp_path / "missing").exists()
