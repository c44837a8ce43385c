"""How processes meet, speak and part: what is asked of torch for GPUs, and what becomes of one that ends alone."""

from __future__ import annotations

import os
import sys
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import yaml

from mmdit.config.file import validate_mapping
from mmdit.options import as_written
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.model_parts.processes import PATIENCE, Processes, processes
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.trainer import Trainer
from tests.support.toy import CPU, tiny
from tests.support.two_processes import run_two

CLOSED = "[/gloo/transport/tcp/pair.cc:525] Connection closed by peer [127.0.0.1]:5316"


@pytest.fixture
def second_of_two(monkeypatch):
    """The environment that torchrun makes for a process on a machine with two GPUs, whose group is never made."""
    for name, value in dict(WORLD_SIZE="2", RANK="1", LOCAL_RANK="1").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    calls = mock.Mock()
    monkeypatch.setattr(torch.cuda, "set_device", calls.set_device)
    monkeypatch.setattr(dist, "init_process_group", calls.init)
    monkeypatch.setattr(dist, "destroy_process_group", calls.destroy)
    monkeypatch.setattr(dist.distributed_c10d, "_abort_process_group", calls.abort)
    return calls


@pytest.fixture
def one_in_a_group(tmp_path):
    """A group of this process alone."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_on_gpus_the_group_knows_its_device_and_the_host_speaks_over_gloo(second_of_two):
    with processes(torch.device("cuda"), "ddp") as (group, device):
        assert (group.rank, group.size, device) == (1, 2, torch.device("cuda", 1))
        assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "2"
    assert second_of_two.mock_calls == [
        mock.call.set_device(device),
        mock.call.init("cpu:gloo,cuda:nccl", timeout=PATIENCE, device_id=device),
        mock.call.destroy(),
    ]


def test_each_process_of_a_machine_with_too_few_gpus_says_so(second_of_two, monkeypatch):
    for name, value in dict(WORLD_SIZE="4", LOCAL_WORLD_SIZE="4", RANK="0", LOCAL_RANK="0").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="2 devices are fewer than"), processes(torch.device("cuda"), "ddp"):
        pass
    assert not second_of_two.init.called


def test_on_cpus_the_group_is_of_gloo_alone(second_of_two):
    with processes(CPU, "ddp") as (_, device):
        assert device == CPU
    assert second_of_two.mock_calls == [
        mock.call.init("gloo", timeout=PATIENCE, device_id=None),
        mock.call.destroy(),
    ]


@pytest.mark.parametrize("error", [RuntimeError(CLOSED), dist.DistBackendError("NCCL error: remote process exited")])
def test_a_process_that_is_left_alone_says_one_sentence_and_waits_for_nobody(error, second_of_two):
    with (
        pytest.raises(CheckFailed, match="another process of this run has ended"),
        processes(torch.device("cuda"), "ddp"),
    ):
        raise error
    assert second_of_two.abort.called and not second_of_two.destroy.called


def test_an_error_of_ones_own_stays_what_it_is(second_of_two):
    with pytest.raises(RuntimeError, match="mat1 and mat2"), processes(CPU, "ddp"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert second_of_two.destroy.called


@pytest.mark.parametrize(
    "error",
    [
        dist.DistNetworkError("The client socket has timed out after 600000ms\nC++ CapturedTraceback:"),
        ValueError("environment variable MASTER_ADDR expected, but not set"),
    ],
)
def test_processes_that_do_not_meet_say_why_in_one_line(error, second_of_two):
    second_of_two.init.side_effect = error
    with pytest.raises(UserError, match="did not find one another") as caught, processes(CPU, "ddp"):
        pass
    assert "\n" not in str(caught.value) and str(error).splitlines()[0] in str(caught.value)


@pytest.mark.usefixtures("one_in_a_group")
def test_what_the_host_asks_needs_no_gpu():
    group = Processes("ddp", torch.device("cuda", 0))
    assert group.any(True) and not group.any(False)
    assert group.first_text("here") == "here" and group.on_main(lambda: 3) == 3
    group.wait()


@pytest.mark.usefixtures("one_in_a_group")
@pytest.mark.parametrize(("unused", "looks"), [("none", False), ("all", True)])
def test_unused_weights_are_looked_for_only_where_there_are_some(unused, looks, monkeypatch):
    content = as_written(tiny())
    content["model"]["unused_weights"] = unused
    config = validate_mapping(content, ToolConfig, source="test")
    wrapped = mock.Mock(side_effect=lambda model, **options: model)  # the real one imports the compiler
    monkeypatch.setattr("torch.nn.parallel.DistributedDataParallel", wrapped)
    before = torch.get_rng_state()
    trainer = Trainer(config, world_of(config), device=CPU, dtype=torch.float32, seed=0, group=Processes("ddp", CPU))
    wrapped.assert_called_once_with(trainer.model, find_unused_parameters=looks)
    assert all(p.grad is None for p in trainer.model.parameters())
    alone = Trainer(config, world_of(config), device=CPU, dtype=torch.float32, seed=0)
    assert trainer.step() == alone.step()
    assert torch.equal(before, torch.get_rng_state())


ENDS_AT_STEP_3 = """
import os, sys
from mmdit_cli.toy.trainer import Trainer
step = Trainer.step
def last_step(self):
    if self.completed == 2 and self.group.rank == 1:
        os._exit(9)
    return step(self)
Trainer.step = last_step
sys.argv[0] = "mmdit"
from mmdit_cli.app import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "tp=2", "ulysses=2"])
def test_a_process_that_dies_is_one_message_and_an_exit_code_of_the_other(kind, tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(as_written(tiny())))
    asked = ["train-toy", "-c", "c.yaml", "--run-dir", "run", "--parallel", kind]
    codes, said = run_two([sys.executable, "-c", ENDS_AT_STEP_3, *asked], tmp_path, patience=120)
    assert codes == [1, 9]
    assert said.count("error: ") == 1 and "Traceback" not in said
    again = "torchrun --nproc-per-node 2 -m mmdit_cli train-toy --resume --run-dir run --device cpu"
    spread = "" if kind == "ddp" else f" --parallel {kind}"
    assert f"another process of this run has ended, at step 2; go on with\n{again}{spread}\n" in said
