"""Checkpoints in pieces: written beside the training, one at a time, whole or not at all, in one shard's memory."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

import mmdit
from mmdit.config.file import validate_mapping
from mmdit.options import as_written
from mmdit.weights import piece_files
from mmdit.weights.checkpoints import EMA, OPTIMIZER, WEIGHTS, newest_checkpoint
from mmdit.weights.header import CheckpointError
from mmdit.weights.piece_files import PieceFiles
from mmdit_cli.errors import UserError
from mmdit_cli.model_parts.processes import Processes
from mmdit_cli.model_parts.tensor_bytes import model_bytes
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy import sharded_saving
from mmdit_cli.toy.checkpoints import optimizer_tensors
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.sharded_saving import ShardedSaving, held_tensors
from mmdit_cli.toy.trainer import Diverged, Trainer
from mmdit_cli.toy.training import train
from tests.support.toy import CPU, same_bits, tiny

FILES = (WEIGHTS, EMA, OPTIMIZER)


@pytest.fixture
def group(tmp_path):
    """A process alone that saves as one of several does."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield Processes("fsdp", CPU)
    dist.destroy_process_group()


def tensors(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Of a checkpoint, whoever wrote it."""
    checkpoint, problems = newest_checkpoint(run)
    assert checkpoint is not None and checkpoint.step == step and not problems
    files = {name: PieceFiles(checkpoint.files(name)) for name in FILES}
    return {f"{name} {key}": held.read(key) for name, held in files.items() for key in held.specs}


@pytest.mark.usefixtures("bare_training")
def test_a_run_that_saves_in_pieces_has_the_bits_of_another_and_each_goes_on_from_the_other(group, tmp_path):
    spread, alone = tmp_path / "spread", tmp_path / "alone"
    train(tiny(steps=4), device=CPU, run_dir=spread, group=group)
    train(tiny(steps=4), device=CPU, run_dir=alone)
    assert (spread / "checkpoint-00000004" / "weights-00001-of-00001.safetensors").exists()
    assert same_bits(tensors(spread, 4), tensors(alone, 4))
    joined, whole = ((run / "checkpoint-00000004" / EMA).read_bytes() for run in (spread, alone))
    assert joined == whole  # of the same weights, by `mmdit.save`
    for run in (spread, alone):
        shutil.rmtree(run / "checkpoint-00000004")
    train(tiny(steps=4), device=CPU, run_dir=spread, resume=True)
    train(tiny(steps=4), device=CPU, run_dir=alone, resume=True, group=group)
    assert same_bits(tensors(spread, 4), tensors(alone, 4))
    assert not (spread / "checkpoint-00000004" / "weights-00001-of-00001.safetensors").exists()


@pytest.fixture
def saving(group, tmp_path):
    """What saves, and what it is given to save."""
    model = mmdit.build(tiny().model)
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    cuts = dict.fromkeys(name for name, _ in model.named_parameters())
    saver = ShardedSaving(group)

    def start(step: int) -> None:
        files = held_tensors(model, model, optimizer_tensors(optimizer, model), cuts)
        saver.start(tmp_path, step, files, averaged=step, identity={})

    return model, saver, start


def test_training_goes_on_while_a_checkpoint_is_written_and_changes_nothing_of_it(saving, monkeypatch, tmp_path):
    model, saver, start = saving
    written, write = threading.Event(), piece_files.write_pieces
    monkeypatch.setattr(sharded_saving, "write_pieces", lambda *given: (written.wait(60), write(*given)))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    start(2)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0)
    saver.look()
    assert newest_checkpoint(tmp_path) == (None, [])
    written.set()
    start(4)  # which waits for the one before
    checkpoint, _ = newest_checkpoint(tmp_path)
    held = PieceFiles(checkpoint.files(WEIGHTS))
    assert checkpoint.step == 2 and all(torch.equal(held.read(name), x) for name, x in before.items())
    saver.finish()
    assert newest_checkpoint(tmp_path)[0].step == 4 and not [*tmp_path.glob(".*")]


def test_a_disk_that_is_full_is_told_by_the_checkpoints_name_and_the_one_before_stands(saving, monkeypatch, tmp_path):
    _, saver, start = saving
    start(2)
    saver.finish()

    def full(path, *rest):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(sharded_saving, "write_pieces", full)
    start(4)
    with pytest.raises(OSError, match=r"No space left.*checkpoint-00000004'"):
        saver.finish()
    assert newest_checkpoint(tmp_path)[0].step == 2 and not [*tmp_path.glob(".*")]
    saver.finish()  # nothing is under way


@pytest.mark.parametrize("what", ["gone", "damaged", "of more processes"])
def test_a_checkpoint_that_lacks_pieces_is_passed_over(what, saving, tmp_path):
    _, saver, start = saving
    for step in (2, 4):
        start(step)
    saver.finish()
    file = tmp_path / "checkpoint-00000004" / "ema-00001-of-00001.safetensors"
    if what == "gone":
        file.unlink()
    elif what == "damaged":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        state = json.loads((file.parent / "state.json").read_text()) | {"writers": 2}
        del state["sha256"]["state.json"]
        (file.parent / "state.json").write_text(json.dumps(state))
    checkpoint, (problem,) = newest_checkpoint(tmp_path)
    assert checkpoint.step == 2 and "checkpoint-00000004 is damaged" in problem


def test_a_joined_file_that_was_damaged_is_joined_again(saving, tmp_path):
    _, saver, start = saving
    start(2)
    saver.finish()
    checkpoint, _ = newest_checkpoint(tmp_path)
    joined = checkpoint.whole(EMA)
    whole = joined.read_bytes()
    joined.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert checkpoint.whole(EMA).read_bytes() == whole
    joined.write_bytes(b"junk")
    assert checkpoint.whole(EMA).read_bytes() == whole
    joined.unlink()
    with pytest.raises(CheckpointError, match="holds pieces of a training run's weights; give the run's folder"):
        mmdit.load(checkpoint.path)


def test_a_run_that_diverges_while_its_checkpoint_can_not_be_written_says_both(group, monkeypatch, tmp_path):
    def full(path, *rest):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(sharded_saving, "write_pieces", full)
    monkeypatch.setattr("mmdit_cli.toy.training.check_fits", lambda *given: None)
    losses = Trainer._losses
    monkeypatch.setattr(
        Trainer,
        "_losses",
        lambda self, *batch: {n: x * (1 if self.completed < 3 else torch.nan) for n, x in losses(self, *batch).items()},
    )
    monkeypatch.setattr(ShardedSaving, "look", lambda self: None)
    with pytest.raises(
        Diverged, match="at step 4.*no checkpoint yet, for the one under way can't be written .No space"
    ):
        train(tiny(steps=6, checkpoint_every=3), device=CPU, run_dir=tmp_path / "run", group=group)


def wide() -> ToolConfig:
    content = as_written(tiny())
    for modality in content["model"]["modalities"].values():
        modality["dim"] = 512
    content["model"] |= {"depth": 3, "dim_cond": 256}
    return validate_mapping(content, ToolConfig, source="test")


def save_one(rank: int, folder: str) -> None:
    """A checkpoint of one of two processes; the most memory it took, and the bytes of its own part of the state."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    config = wide()
    world = world_of(config)
    trainer = Trainer(config, world, device=CPU, dtype=torch.float32, seed=0, group=Processes("fsdp", CPU))
    trainer.step()
    began = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    trainer.save(Path(folder))
    trainer.saving.finish()
    taken = memory("VmHWM") - began
    shard = 4 * model_bytes(trainer.model)  # weights, average, two moments
    (Path(folder) / f"{rank}.json").write_text(json.dumps([taken, shard]))
    dist.destroy_process_group()


def memory(kind: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


@pytest.mark.slow
def test_saving_takes_the_memory_of_one_shard(tmp_path):
    """What each process copies, and nothing of what the other has; whole weights would be twice as much."""
    multiprocessing.start_processes(save_one, (str(tmp_path),), nprocs=2, start_method="spawn")
    for rank in range(2):
        taken, shard = json.loads((tmp_path / f"{rank}.json").read_text())
        assert shard > 1e8 and taken < 1.1 * shard, (rank, taken, shard)
    assert newest_checkpoint(tmp_path)[0].state["writers"] == 2


def test_a_run_of_one_process_is_told_what_lacks(group, tmp_path):
    """Resuming reads the pieces' headers before it changes anything."""
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_picture", "_curves", "check_fits"):
            patch.setattr(f"mmdit_cli.toy.training.{name}", lambda *given: None)
        train(tiny(steps=2), device=CPU, run_dir=run, group=group)
        with pytest.raises(UserError, match=r"does not fit the config: .*audio.* is missing"):
            train(tiny(sound=True), device=CPU, run_dir=run, resume=True, allow_changes=True)
