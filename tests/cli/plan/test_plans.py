"""Plans of a step whose memory and messages are known."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from mmdit.parallel import MeshLayout
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.memory.rank_estimate import RankMemory, RankStep
from mmdit_cli.model_parts.collectives import Collective, Traffic
from mmdit_cli.plan import command, cuts, plans
from mmdit_cli.plan.compute_share import read_compute_share
from mmdit_cli.plan.machine import Machine, OwnNumbers, read_machine
from mmdit_cli.plan.plans import Wanted, make_plans
from mmdit_cli.plan.ways import layouts, read_gpus, read_ways
from mmdit_cli.request.tool_config import as_tool_config
from tests.support.paths import ROOT
from tests.support.small_configs import TINY

BOX = Machine("x", "bf16", 1e9, 10_000, None, within_node=1e6, between_nodes=1e5, gpus_per_node=4)
PLAN = ("plan", "-c", "c.yaml", "--card", "h100")


@pytest.fixture
def cut(monkeypatch):
    """In the place of a model that is cut: memory in shards, less of it recomputed, and a gradient that is reduced."""
    asked = []

    def estimated(estimator, layout, *, checkpoint):
        asked.append((layout, checkpoint))
        if layout.tensor == 3:
            raise ValueError("3 processes do not divide the 4 heads")
        share = 64_000 // (layout.shard * layout.tensor * layout.context)
        activations = 100 if checkpoint else 4000
        memory = RankMemory(share // 4, share // 4, share // 2, activations, 10, share + activations)
        scattered = Collective("reduce_scatter", "fsdp", tuple(range(layout.size)))
        return RankStep(memory, {scattered: Traffic(1, 600 * layout.size)})

    counted = SimpleNamespace(parameters=4000, batch_size=1, step_flops=10**9, backward_flops=0)
    monkeypatch.setattr(command, "MOST_PROCESSES", 1)  # others would know nothing of this
    monkeypatch.setattr(cuts.RankEstimator, "estimate", estimated)
    monkeypatch.setattr(plans, "count_flops", lambda config, dtype: counted)
    monkeypatch.setattr(plans, "recomputed_flops", lambda config, dtype, backward: 10**9)
    return asked


def wanted(gpus: str, ways: str, **more) -> Wanted:
    return Wanted(read_gpus(gpus), read_ways(ways), BOX, torch.bfloat16, 0.5, **more)


def planned(gpus: str, ways: str, **more):
    config = as_tool_config({"name": "c", "model": {"depth": 1, "modalities": {"a": {"dim": 8}}, "dim_head": 4}})
    return {(plan.gpus, plan.parallel): plan for plan in make_plans(config, wanted(gpus, ways, **more)).plans}


def test_what_does_not_fit_is_recomputed_and_says_what_it_lacks(cut):
    found = planned("1,8", "fsdp,hsdp,tp=3")
    assert [*found] == [(1, "one GPU"), (8, "fsdp"), (8, "fsdp,tp=3"), (8, "hsdp"), (8, "hsdp,tp=3")]
    one, fsdp = found[1, "one GPU"], found[8, "fsdp"]
    assert not one.fits and one.why == "needs 64.1 kB of 10 kB" and one.checkpoint_activations
    assert fsdp.fits and fsdp.checkpoint_activations and fsdp.memory_bytes.peak == 8100  # 12,000 without
    assert found[8, "fsdp,tp=3"].why == "8 GPUs in 2 nodes can't be divided so"


def test_each_copy_is_cut_once_and_the_copies_reduce_among_all_of_them(cut):
    found = planned("8,16,32", "hsdp", batch_per_gpu=1)
    assert [*dict.fromkeys(layout for layout, _ in cut)] == [MeshLayout(shard=4)]
    assert [plan.communication_bytes.between_nodes for plan in found.values()] == [600, 900, 1050]  # 2 (n - 1) / n
    assert {plan.communication_bytes.within_node for plan in found.values()} == {1800}


def test_time_price_and_the_cheapest_follow_from_the_step(cut):
    found = planned("8,16", "fsdp,ulysses=2", images=1000, price=3.0)
    plain, shared = found[16, "fsdp"], found[16, "fsdp,ulysses=2"]
    assert (plain.batch, shared.batch) == (16, 8)
    step = plain.step_s
    assert 0 < step.communication < step.overlapped == step.compute == step.sequential - step.communication
    assert plain.samples_per_s == pytest.approx(16 / plain.step_s.compute)
    assert plain.efficiency == pytest.approx(1.0) and plain.utilization == pytest.approx(0.5)
    assert shared.step_s.compute == pytest.approx(plain.step_s.compute / 2)
    assert plain.hours == pytest.approx(63 * plain.step_s.overlapped / 3600)  # 1000 samples are 63 steps
    assert plain.cost == pytest.approx(3 * plain.card_hours) == pytest.approx(3 * 16 * plain.hours)
    (cheapest,) = (key for key, plan in found.items() if plan.cheapest)
    assert cheapest == (16, "fsdp")  # on 8 blocks are recomputed


def test_ways_are_data_parallel_alone_and_with_each_of_the_others():
    texts = [way.text for way in read_ways("ddp,fsdp,hsdp,tp=2,tp=2+ulysses=4")]
    assert texts == ["ddp"] + [data + rest for data in ("fsdp", "hsdp") for rest in ("", ",tp=2", ",tp=2,ulysses=4")]
    assert [way.text for way in read_ways("tp=2")] == ["fsdp", "fsdp,tp=2"]
    assert layouts(read_ways("fsdp,hsdp"), 8, 8) == {"fsdp": MeshLayout(shard=8)}  # of one node hsdp is the same
    with pytest.raises(UserError, match="--gpus 1: none of --parallel hsdp, hsdp,tp=2 is for so few GPUs"):
        layouts([way for way in read_ways("hsdp,tp=2")], 1, 8)


def report(tmp_path, dtype="bf16", name="NVIDIA H100 80GB HBM3", **changes):
    result = {"config": "a", "mode": "train", "flops": 300, "phases_ms": {"forward": 1.0, "backward": 2.0}}
    result |= {"ceiling": {"gemm_flops_per_s": 2e5}} | changes
    path = tmp_path / "r.json"
    about = {"command": "profile", "dtype": dtype, "device_name": name}
    path.write_text(json.dumps({**about, "results": [result]}))
    return str(path)


def test_a_measured_share_is_of_the_cards_peak_or_of_another_machines_ceiling(tmp_path):
    assert read_compute_share("40%", BOX) == (0.4, None)
    share, by = read_compute_share(report(tmp_path), replace(BOX, card="h100", flops_per_s=4e5))
    assert share == pytest.approx(0.25) and by.endswith("r.json, of NVIDIA H100 80GB HBM3's peak")
    assert read_compute_share(report(tmp_path), BOX)[0] == pytest.approx(0.5)
    pcie = report(tmp_path, name="NVIDIA H100 PCIe")
    assert read_compute_share(pcie, replace(BOX, card="h100", flops_per_s=4e5))[0] == pytest.approx(0.5)
    for changes, message in (
        ({"dtype": "fp32"}, "measured in fp32, where the peak is of bf16"),
        ({"mode": "forward"}, "has no training step"),
        ({"phases_ms": {}}, "lacks flops, phases_ms or ceiling"),
        ({"flops": 1e9}, "of the peak is no share"),
    ):
        with pytest.raises(UserError, match=message):
            read_compute_share(report(tmp_path, **changes), BOX)


def test_a_card_may_be_ones_own(tmp_path):
    own = OwnNumbers("989e12", "80GB", "450e9", None)
    machine = read_machine(None, own, 8, "bf16")
    assert (machine.card, machine.memory, machine.within_node) == ("own card", 80 * 10**9, 450e9)
    machine.check(8)
    with pytest.raises(UserError, match="16 of own card: how fast they speak with one another between nodes"):
        machine.check(16)
    assert read_machine("h200", replace(own, card_flops=None, card_memory=None), 8, "bf16").memory == 141 * 10**9
    assert read_machine("A100-80", OwnNumbers(), 8, "bf16").card == "a100"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--card", "h10"), "card 'h10' is not known; did you mean h100? Known: a100, a100-40, h100"),
        (("--card-flops", "1e12"), "--card and --card-flops: give one of them"),
        (("--gpus", "8,many"), "--gpus 8,many: expected numbers from 1 to 131072, such as 8,64,1024, got 'many'"),
        (("--gpus", "0"), "--gpus 0: expected numbers from 1 to 131072, such as 8,64,1024, got '0'"),
        (("--parallel", "pp=2"), "--parallel pp=2: expected ddp, fsdp, hsdp, tp=N, ulysses=N"),
        (("--price", "2"), "--price: of how many samples? Give --images 1e9"),
        (("--card", "l40s", "--gpus", "16"), "16 of l40s: how fast they speak with one another between nodes is not"),
        (("--gpus", "2", "--parallel", "tp=4"), None),
    ],
)
def test_a_wrong_request_is_one_message(more, message, cut, run_command):
    Path("c.yaml").write_text(TINY)
    done = run_command(*PLAN, *more)
    if message is None:
        assert done.returncode == 0
        return
    assert (done.returncode, done.stdout) == (2, "") and message in done.stderr and done.stderr.count("\n") == 1


def test_the_document_has_what_the_contract_says(cut, run_command, tmp_path):
    Path("c.yaml").write_text(TINY)
    done = run_command(*PLAN, "--gpus", "8,16", "--images", "1e6", "--plot", "p.svg", "--report", "r.md", "--json")
    (result,) = json.loads(done.stdout)["results"]
    plan = result["plans"][-1]
    assert plan["gpus"] == 16 and set(plan["layout"]) == {"shard", "replicate", "tensor", "context"}
    kinds = {"weights", "gradients", "optimizer", "activations", "gathered", "peak"}
    assert set(plan["memory_bytes"]) == kinds and isinstance(plan["fits"], bool)
    assert set(plan["communication_bytes"]) == {"within_node", "between_nodes"}
    assert {"compute", "communication", "overlapped", "sequential"} <= set(plan["step_s"])
    assert {"samples_per_s", "utilization", "card_hours"} <= set(plan)
    assert (tmp_path / "p.svg").stat().st_size > 1000 and "ulysses=2" in (tmp_path / "r.md").read_text()
    shown = run_command(*PLAN, "--gpus", "8").stdout
    assert "memory of a card, 80 GB" in shown and "cheapest" in shown


def test_one_gpu_is_planned_whatever_else_is_asked_and_groups_fill_nodes():
    ways = read_ways("fsdp,hsdp=2,tp=6")
    assert layouts(ways, 1, 8) == {"one GPU": MeshLayout()}
    assert layouts(ways, 24, 8) == {
        "fsdp": MeshLayout(shard=24),
        "hsdp=2": "groups of 12 GPUs do not fill nodes of 8",
        "fsdp,tp=6": "groups of 6 GPUs do not fill nodes of 8",
        "hsdp=2,tp=6": "groups of 6 GPUs do not fill nodes of 8",
    }


@pytest.mark.slow
def test_processes_cut_what_one_does():
    make = partial(cuts.Cutter, as_tool_config(yaml.safe_load(TINY)), torch.bfloat16, 2, 1 << 30)
    asked = [MeshLayout(shard=2), MeshLayout(shard=4), MeshLayout(tensor=3), MeshLayout(context=2, tensor=2)]
    told: list[int] = []
    found = cuts.cut_all(make, asked, 2, told.append)
    assert found == cuts.cut_all(make, asked, 1, told.append)
    assert told == [0, 1, 2, 3, 4, 0, 1, 2, 3] and "3" in found[asked[2]][False]
    assert found[asked[0]][False].memory.peak > found[asked[1]][False].memory.peak > 0


@pytest.mark.slow
def test_a_process_that_dies_ends_the_plan_with_one_message():
    with pytest.raises(CheckFailed, match="a process that cut the network died"):
        cuts.cut_all(partial(os._exit, 9), [MeshLayout(shard=count) for count in (1, 2, 4, 8)], 2, lambda done: None)
    assert not multiprocessing.active_children()


def stay(folder: Path) -> cuts.Cutter:
    """In a process that cuts: it is there, and for good."""
    (folder / str(os.getpid())).touch()
    time.sleep(600)
    raise AssertionError("nobody has ended this process")


STAYING = """
import sys
from functools import partial
from pathlib import Path
from mmdit.parallel import MeshLayout
from mmdit_cli.interrupts import exit_code, interruptible
from mmdit_cli.plan import cuts
from tests.cli.plan.test_plans import stay
if __name__ == "__main__":
    layouts = [MeshLayout(shard=count) for count in (1, 2, 4, 8)]
    try:
        with interruptible():
            cuts.cut_all(partial(stay, Path(sys.argv[1])), layouts, 2, lambda done: print(done, flush=True))
    except KeyboardInterrupt:
        sys.exit(exit_code())
"""


def wait_until(so: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < until
        time.sleep(0.05)


def children(pid: int) -> set[Path]:
    """Processes that a process has started."""
    tasks = Path("/proc", str(pid), "task").glob("*/children")
    return {Path("/proc", child) for task in tasks for child in task.read_text().split()}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("started", [False, True], ids=["while they start", "while they cut"])
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)],
    ids=["SIGKILL", "SIGTERM", "SIGINT"],
)
def test_processes_end_with_the_first_one(number, code, started, tmp_path):
    command = [sys.executable, "-c", STAYING, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "0\n"
        wait_until(lambda: len(children(process.pid)) == 3)  # one keeps track of what they share
        if started:
            wait_until(lambda: len([*tmp_path.iterdir()]) == 2)
        others = children(process.pid)
        process.send_signal(number)
        assert process.wait(10) == code
        wait_until(lambda: not any(other.exists() for other in others))
        assert process.stderr is not None and process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()
