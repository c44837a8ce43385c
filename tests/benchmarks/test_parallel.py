"""The report of spread networks: published runs that the plan is asked about, and sections that are written alone."""

from __future__ import annotations

import pytest
import torch

from benchmarks.parallel.document import (
    EQUAL,
    LAYOUTS,
    PLANNED,
    PUBLISHED,
    equality_section,
    published_section,
    with_sections,
)
from benchmarks.parallel.equality import Difference
from benchmarks.parallel.published import decoder, figures, of_run, planned, read_published
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.request.tool_config import as_tool_config
from tests.support.paths import REPORTS

# pytorch/torchtitan#812: "Model llama3 8B size: 8,030,261,248 total parameters"
LLAMA_8B = 8_030_261_248


@pytest.mark.parametrize(("gpt", "kv_heads"), [(False, 2), (True, None)])
def test_a_decoder_has_the_flops_of_the_published_formulas(gpt, kv_heads):
    """6 N + 12 L d n a token, of weights that are multiplied by (torchtitan's count; Megatron-LM's is the same)."""
    dim, depth, hidden, vocabulary, length = 64, 3, 96, 50, 32
    model = decoder(
        dim=dim, depth=depth, heads=4, hidden=hidden, vocabulary=vocabulary, length=length, kv_heads=kv_heads, gpt=gpt
    )
    config = as_tool_config({"name": "decoder", "model": model, "run": {"tokens": {"text": length}}})
    attention = dim * (2 * dim + 2 * dim * (kv_heads or 4) // 4)
    weights = depth * (attention + (2 if gpt else 3) * dim * hidden) + dim * vocabulary
    found = count_flops(config, dtype=torch.bfloat16)
    assert found.step_flops / length == 6 * weights + 12 * depth * dim * length


@pytest.mark.slow
def test_llama_has_its_published_parameters_beside_places_and_a_bias():
    file = read_published()
    sizes = file["decoders"]["llama-3-8b"]
    run = next(run for run in file["runs"] if run["config"] == "llama-3-8b")
    assert planned(run, file["decoders"]).parameters == LLAMA_8B + sizes["length"] * sizes["dim"] + sizes["dim"]


@pytest.mark.slow
def test_the_report_has_what_the_plan_says_now_and_published_flops_are_counted_alike():
    said = [*figures()]
    assert published_section(said).strip() in (REPORTS / "parallel.md").read_text("utf-8")
    counted = [each for each in said if each.name == "GFLOP a token" and "FLUX" not in each.run]
    assert counted and all(0.94 < each.planned / each.published < 1 for each in counted)  # they count the embedding too


def test_what_was_published_is_told_with_its_source_and_why_the_plan_parts_from_it():
    file = read_published()
    for run in file["runs"]:
        assert run["source"] and run["apart"].endswith(".") and run["published"], run["name"]
    names = [run["name"] for run in file["runs"]]
    assert len({*names}) == len(names) and all(run.get("like", names[0]) in names for run in file["runs"])


def test_a_section_that_is_written_alone_leaves_the_others_and_rows_of_networks_that_were_not_tried():
    page = with_sections("", {EQUAL: equality_section({"z-image": [alike(1e-16)] * len(LAYOUTS)}, "")})
    page = with_sections(page, {PUBLISHED: "\nwhat others say\n"})
    page = with_sections(page, {EQUAL: equality_section({"prx": [alike(1e-3)] * len(LAYOUTS)}, page)})
    page = with_sections(page, {PLANNED: "\nwhat is so\n"})
    assert page.count("| z-image | 1e-16 | ") == page.count("| prx | 1e-03 | ") == 1
    headings = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    assert headings == [EQUAL, PLANNED, PUBLISHED]
    assert "what others say" in page and "what is so" in page and with_sections(page, {}) == page


def alike(error: float) -> Difference:
    return Difference(outputs=error, gradients=0, norm=0, steps=0, loaded=0)


def test_a_run_that_can_not_be_cut_so_says_why():
    file = read_published()
    run = dict(file["runs"][-1], name="odd", gpus=6, parallel="fsdp,tp=3")
    small = {run["config"]: dict(dim=64, depth=2, heads=4, hidden=96, vocabulary=50, length=32)}
    with pytest.raises(ValueError, match="odd: .*3 processes do not divide"):
        list(of_run(run, planned(run, small)))
