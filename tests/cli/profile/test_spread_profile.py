"""A training step over several processes: what is said of each, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import yaml
from jsonschema import validate

from mmdit.options import as_written
from mmdit.parallel import MeshLayout
from mmdit_cli.commands.json_schemas import document_schema
from mmdit_cli.errors import UserError
from mmdit_cli.memory.measured import MemoryUse
from mmdit_cli.memory.rank_estimate import estimate_rank
from mmdit_cli.model_parts.flop_count import CONVENTION, count_flops
from mmdit_cli.model_parts.processes import Processes
from mmdit_cli.output.document import make_document
from mmdit_cli.output.renderings import SUFFIXES, render
from mmdit_cli.profile import spread_profile
from mmdit_cli.profile.profile_settings import Settings
from mmdit_cli.profile.spread_profile import RankProfile, SpreadProfile, profile_spread
from mmdit_cli.profile.spread_tables import spread_tables
from mmdit_cli.profile.statistics import Latency
from mmdit_cli.profile.step_spans import StepSplit
from mmdit_cli.request.spreading import check_several
from tests.support.paths import ROOT
from tests.support.ports import free_ports
from tests.support.small_configs import config
from tests.support.two_processes import run_two

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
def test_a_group_of_one_process_is_measured_whole(dtype, monkeypatch):
    """It sends nothing; its weights are float32, whatever it computes in."""
    monkeypatch.setattr(spread_profile, "PROFILED", 1)
    small = config(depth=1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        found = profile_spread(small, Settings(mode="train", dtype=dtype, repeats=2), Processes("fsdp", CPU))
    finally:
        dist.destroy_process_group()
    (rank,) = found.ranks
    counted = count_flops(small)
    assert (found.processes, found.flops, found.parameters) == (1, counted.step_flops, counted.parameters)
    assert rank.memory_bytes.weights == rank.memory_bytes.gradients == 4 * found.parameters
    assert rank.latency_ms == found.latency_ms and found.latency_ms.runs == 2
    parts = rank.profiled_ms
    assert parts.wall == pytest.approx(parts.computing + parts.exposed + parts.neither) and parts.computing > 0
    assert sum(rank.sent_bytes.values()) == 0
    table, *notes = spread_tables([found], 200)
    assert table.row_count == 1 and [str(each) for each in notes if "Exposed: while nothing is computed" in str(each)]


@pytest.fixture
def one_of_two(monkeypatch):
    for name, value in dict(WORLD_SIZE="2", RANK="0", MASTER_ADDR="localhost").items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("one_of_two")
@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--mode", "train", "--compile"], "--compile measures one process"),
        (["--mode", "train", "--sweep", "model.depth=1,2"], "--sweep measures one process"),
        (["--mode", "train", "--trace", "t.json"], "--trace measures one process"),
        (["--mode", "train", "--estimate"], "--estimate measures one process"),
        (["--mode", "sample"], "under torchrun add --mode train"),
        ([], "--mode forward measures one process"),
    ],
)
def test_what_is_of_one_process_is_refused_under_torchrun(given, why, run_command):
    done = run_command("profile", "-c", "two-modality", *given)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and why in done.stderr


def test_parallel_without_torchrun_is_refused():
    with pytest.raises(UserError, match=r"--parallel fsdp: there is one process; start several by torchrun"):
        check_several("train", "fsdp", {})
    assert not check_several("train", None, {})


def several(folder, lines: list[list[str]], size: int) -> list[list]:
    """Of each command line what each process said: exit code, output, errors."""
    ports, env = free_ports(len(lines)), {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    env |= {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.one_of_several", f"{rank}.json", json.dumps(lines), *ports],
            cwd=folder,
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(size)
    ]
    try:
        assert [process.wait(timeout=600) for process in started] == [0] * size
    finally:
        for process in started:
            process.kill()
    return [
        list(each) for each in zip(*(json.loads((folder / f"{r}.json").read_text()) for r in range(size)), strict=True)
    ]


@pytest.mark.slow
def test_two_processes_are_measured_as_they_were_planned_and_the_first_one_speaks(tmp_path):
    kinds = {
        "ddp": MeshLayout(replicate=2),
        "fsdp": MeshLayout(shard=2),
        "tp=2": MeshLayout(tensor=2),
        "ulysses=2": MeshLayout(context=2),
    }
    sizes = {"modalities": {"text": {"dim": 64}, "image": {"dim": 64}}, "dim_head": 32}
    model = config(run={"tokens": {"text": 40, "image": 60}}, **sizes)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(as_written(model)))
    asked = [["--parallel", kind, "--repeats", "2", "--json"] for kind in kinds] + [["--parallel", "tp=4"]]
    said = several(tmp_path, [["profile", "-c", "c.yaml", "--mode", "train", *more] for more in asked], 2)
    *measured, (first, second) = said
    assert (
        first[0] == second[0] == 2 and second[1:] == ["", ""] and "4 processes each time, but there are 2" in first[2]
    )
    for (kind, layout), (main, other) in zip(kinds.items(), measured, strict=True):
        assert main[0] == other[0] == 0 and other[1:] == ["", ""], (kind, main, other)
        (result,) = json.loads(main[1])["results"]
        assert result["parallel"] == kind and [rank["rank"] for rank in result["ranks"]] == [0, 1]
        for rank in result["ranks"]:
            planned = estimate_rank(model, layout, torch.float32, rank=rank["rank"])
            if kind != "ddp":  # whose buckets are not FSDP's
                sent = sum(traffic.sent(collective) for collective, traffic in planned.sent.items())
                assert sum(rank["sent_bytes"].values()) == round(sent)
                assert rank["memory_bytes"]["peak"] == pytest.approx(planned.memory.peak, rel=0.1)
            parts = rank["profiled_ms"]
            assert parts["exposed"] > 0 and parts["communication"] == pytest.approx(parts["hidden"] + parts["exposed"])
            assert parts["wall"] == pytest.approx(parts["computing"] + parts["exposed"] + parts["neither"])


ENDS_IN_A_STEP = """
import os, sys
from mmdit_cli.model_parts.timed_call import Call
step, done = Call.__call__, []
def last_step(self, *phase):
    done.append(step(self, *phase))
    if len(done) == 4 and os.environ["RANK"] == "1":
        os._exit(9)
Call.__call__ = last_step
sys.argv[0] = "mmdit"
from mmdit_cli.app import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_process_that_dies_is_one_message_of_the_other(kind, tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(as_written(config())))
    asked = ["profile", "-c", "c.yaml", "--mode", "train", "--parallel", kind, "--repeats", "9"]
    codes, said = run_two([sys.executable, "-c", ENDS_IN_A_STEP, *asked], tmp_path, patience=300)
    assert codes == [1, 9]
    assert said.count("error: ") == 1 and "another process of this run has ended" in said and "Traceback" not in said


def test_a_document_of_processes_has_every_format_and_the_schema():
    parts, memory = dict(wall=9.0, computing=5.0, communication=3.0, hidden=1.0, exposed=2.0, neither=2.0), 4
    latency = Latency(8.0, 7.0, 9.0, 3, None, None)
    rank = RankProfile(0, 0, latency, StepSplit(**parts), {"all_gather": 7}, 2, MemoryUse(memory, memory, memory))
    layout = dict(replicate=1, shard=2, context=1, tensor=1)
    about = ("small", "train", "fsdp", 2, layout, 4, {"text": 3}, 5, 6)
    found = SpreadProfile(*about, latency, 1.0, 2.0, 3.0, [rank, replace(rank, rank=1)], CONVENTION)
    document = make_document("profile", [found], device="cpu", dtype="fp32", seed=0)
    validate(document, document_schema("profile"))
    for suffix in SUFFIXES:
        assert "fsdp" in render(document, suffix)
    assert "exposed communication" in render(document, ".html")
