"""MMAudio against its formulas, stated again under its authors' names (`python -m benchmarks.families --mmaudio CLONE`
holds it against their own class)."""

from __future__ import annotations

import copy

import pytest
import torch

import mmdit
from benchmarks.families.comparison import (
    block_outputs,
    call_theirs,
    gradient_errors,
    ours_of,
    output_error,
    random_call,
    random_theirs,
    relative,
)
from benchmarks.families.document import size
from benchmarks.families.mmaudio import MMAUDIO, NETWORKS
from mmdit.layouts.layout import to_layout
from tests.support.marks import slow_but
from tests.support.paths import REPORTS

OUTPUT, GRADIENT = 1e-5, 1e-4
each_network = pytest.mark.parametrize("family", slow_but(NETWORKS, MMAUDIO), ids=str)


@each_network
def test_the_shipped_config_has_the_published_parameters(family):
    with torch.device("meta"):
        ours, theirs = mmdit.build(f"configs/{family.config}.yaml"), family.theirs(**family.published)
    counts = [sum(p.numel() for p in net.parameters()) for net in (ours, theirs)]
    assert counts == [family.parameters] * 2
    assert to_layout(ours.state_dict(), ours.config, "mmaudio").keys() == theirs.state_dict().keys()


@each_network
def test_outputs_are_its_own_for_several_batches_durations_and_text_lengths(family):
    assert output_error(family) < OUTPUT


def test_gradients_of_every_weight_and_input_are_its_own():
    errors = gradient_errors(MMAUDIO)
    assert len(errors) > 100 and "input sync" in errors
    assert max(errors.values()) < GRADIENT, max(errors.items(), key=lambda item: item[1])


def test_every_block_gives_what_its_counterpart_gives():
    theirs = random_theirs(MMAUDIO)
    ours = ours_of(theirs, MMAUDIO)
    arguments = random_call(MMAUDIO)
    tokens = arguments["inputs"]["audio"].shape[1]
    wanted = block_outputs(theirs, tokens, lambda: call_theirs(theirs, MMAUDIO, arguments))
    got = block_outputs(ours, tokens, lambda: ours(**arguments))
    assert len(got) == len(wanted) == 5
    for index, (x, y) in enumerate(zip(got, wanted, strict=True)):
        assert relative(x, y) < OUTPUT, f"block {index} is the first that differs"


def test_in_bfloat16_it_is_as_near_to_float64_as_the_statement_is():
    theirs = random_theirs(MMAUDIO)
    ours = ours_of(theirs, MMAUDIO)
    arguments = random_call(MMAUDIO)
    arguments["timestep"] = torch.tensor([0.5, 0.25])  # which bfloat16 holds
    cast = lambda dtype: torch.utils._pytree.tree_map(lambda x: x.to(dtype), arguments)  # noqa: E731
    with torch.no_grad():
        exact = ours.double()(**cast(torch.float64))["audio"]
        got = copy.deepcopy(ours).bfloat16()(**cast(torch.bfloat16))["audio"]
        stated = call_theirs(theirs.bfloat16(), MMAUDIO, cast(torch.bfloat16))
    assert relative(got, exact) < 1.25 * relative(stated, exact) < 0.1


@each_network
def test_names_go_there_and_back_bit_for_bit(family):
    theirs = random_theirs(family)
    ours = ours_of(theirs, family)
    back = to_layout(ours.state_dict(), ours.config, "mmaudio")
    assert back.keys() == theirs.state_dict().keys()
    for name, x in theirs.state_dict().items():
        assert torch.equal(back[name], x), name


@pytest.mark.slow
@each_network
def test_the_document_of_the_families_has_its_counts(family):
    text = (REPORTS / "families.md").read_text()
    assert f"| {family.config} | {family.parameters:,} | {family.parameters:,} |" in text
    assert f"| {' | '.join(size(family.config))} |" in text
