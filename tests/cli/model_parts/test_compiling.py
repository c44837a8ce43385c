"""torch.compile: when it pays, and what it needs."""

from __future__ import annotations

import re

import pytest
import torch

from mmdit_cli.errors import UserError
from mmdit_cli.model_parts.compiling import check_compiler, compile_gain, in_words, pays_after
from mmdit_cli.profile.measurement import profile_configs
from mmdit_cli.profile.profile_settings import Settings
from mmdit_cli.toy.training import train
from tests.support.small_configs import config
from tests.support.toy import CPU, tiny

COMPILED = {"compile": True}


def test_compiling_has_paid_when_what_the_calls_save_is_more_than_it_took():
    gain = compile_gain(20.5, [0.5, 0.4, 0.6], [0.75, 0.9, 0.7])
    assert (gain.seconds, gain.eager_ms, gain.compiled_ms) == (20.0, 750.0, 500.0)
    spent = lambda calls: 20.0 + 0.5 * calls - 0.75 * calls  # noqa: E731
    assert spent(gain.break_even) < 0 <= spent(gain.break_even - 1) and pays_after(gain, "calls") == "81 calls"
    slower = compile_gain(3.0, [1.0], [0.9])
    assert slower.break_even is None and in_words(slower).endswith("which never pays")


def test_where_there_is_no_compiler_that_is_said_before_anything_is_built(run_command, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="CXX=no-such-compiler is none"):
        train(tiny(**COMPILED), device=CPU, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    check_compiler(torch.device("cuda"), "--compile")  # Triton's business
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    done = run_command("profile", "-c", "two-modality", "--compile")
    assert done.returncode == 2 and done.stderr.startswith("error: --compile needs a C++ compiler on the CPU"), done


@pytest.mark.slow
def test_a_compiled_profile_says_after_how_many_calls_it_pays(quick_ceilings):
    (result,) = profile_configs([config()], Settings(compile=True, repeats=6))
    gain = result.compile_gain
    assert gain.seconds > 0.5 > gain.eager_ms / 1e3 > 0
    assert gain.compiled_ms == pytest.approx(result.latency_ms.median)


@pytest.mark.slow
def test_a_compiled_run_learns_the_same_in_one_graph(tmp_path, bare_training):
    told = []
    plain = train(tiny(True), device=CPU, run_dir=tmp_path / "plain")
    torch._dynamo.utils.counters.clear()
    result = train(tiny(True, **COMPILED), device=CPU, run_dir=tmp_path / "run", on_message=told.append)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert result.loss["last"] == pytest.approx(plain.loss["last"], rel=1e-3)
    assert result.compile_gain.seconds > 0.5 and plain.compile_gain is None
    assert re.match("tiny: compiled in .*; a pass takes .* in place of .*, which (never pays|pays after)", told[0])
