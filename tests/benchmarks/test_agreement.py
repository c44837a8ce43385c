from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from benchmarks.accounting.agreement import Finding, closed_form, markdown, reasons, row
from benchmarks.accounting.tools import ELEMENTWISE, PROBES, ask_flop_counter, ask_flop_counter_meta, probe
from mmdit_cli.memory.estimate import estimate
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.output.units import bytes_
from mmdit_cli.request.tool_config import ToolConfig, as_tool_config, load_tool_config
from tests.support.paths import CONFIGS, REPORTS, ROOT

CLOSED = {"linear": 600, "attention": 400}
ALL = {**dict.fromkeys(PROBES, 1.0), **dict.fromkeys(ELEMENTWISE, 0.0)}


def small(**model) -> ToolConfig:
    base = {"depth": 3, "modalities": {"a": {"dim": 8}, "b": {"dim": 12}, "c": {"dim": 4}}, "heads": 2, "dim_head": 4}
    return as_tool_config({"model": base | model, "run": {"tokens": {"a": 3, "b": 5, "c": 7}}})


@pytest.mark.parametrize(
    "config",
    [
        load_tool_config(CONFIGS / "two-modality.yaml"),
        pytest.param(small(), marks=pytest.mark.slow),
        small(dim_cond=6, skip_last_feedforward=["b"]),
    ],
    ids=["two-modality", "three", "skipped"],
)
def test_the_closed_form_is_what_is_counted(config):
    counted, closed = count_flops(config), closed_form(config)
    assert (counted.linear_flops, counted.attention_flops) == (closed["linear"], closed["attention"])


def test_a_model_that_the_closed_form_does_not_describe_is_refused():
    with pytest.raises(ValueError, match="plain joint blocks"):
        closed_form(small(residual={"kind": "hyper_connections", "streams": 2}))


@pytest.mark.parametrize(
    ("flops", "seen", "wanted"),
    [
        (1000, {}, ["the same"]),
        (600, {"attention": 0.0}, ["sees no fused attention (scaled_dot_product_attention): -40.0%"]),
        (800, {"attention": 0.5}, ["sees 50.0% of fused attention (scaled_dot_product_attention): -20.0%"]),
        (1005, {"gelu": 8.0}, ["counts gelu as well: +0.50%"]),
        (1005, {}, ["not explained: +0.50%"]),
        (990, {"gelu": 8.0}, ["not explained: -1.00%"]),
        (140, {"linear": 0.1, "linear, more tokens": 0.05}, ["counts a weight once a sample, not once a token"]),
    ],
)
def test_a_reason_is_what_the_probes_saw_and_the_rest_is_not_explained_away(flops, seen, wanted):
    finding = Finding("x", 35, "", flops, None, ALL | seen)
    assert reasons(finding, CLOSED, batch=2) == wanted


def test_probes_know_their_own_flops():
    meta, cpu = probe(ask_flop_counter_meta), probe(ask_flop_counter)
    assert meta == ALL
    assert cpu == ALL | {"attention": 0.0}  # no entry for the fused kernel of the CPU


def test_a_tool_that_fails_is_a_row_that_says_so():
    line = row(Finding("x", error="fails: no such thing"), CLOSED, 1)
    assert line[0] == "x" and line[-1] == "fails: no such thing" and "-" in line
    text = markdown(load_tool_config(CONFIGS / "two-modality.yaml"), CLOSED, [line], [])
    assert "| x | - | - | - | fails: no such thing |" in text


def test_the_document_has_our_figures():
    config = load_tool_config(CONFIGS / "two-modality.yaml")
    counted, held = count_flops(config), estimate(config, "forward", torch.float32, torch.device("cpu"))
    text = (REPORTS / "agreement.md").read_text()
    for what in ("peak, measured (profile)", "peak, under fake tensors (profile --estimate)"):
        assert f"| mmdit | {what} | {bytes_(held.peak)} |" in text
    assert f"| mmdit | {counted.parameters:,} | {counted.forward_flops / 1e9:,.3f} GFLOP | 100% | the same |" in text


@pytest.mark.slow
def test_the_command_asks_torch_itself(tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchmarks.accounting",
        "agreement",
        "--tools",
        "torch flop_counter, CPU",
        "--environments",
        tmp_path,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0 and "sees no fused attention" in done.stdout, done.stderr
