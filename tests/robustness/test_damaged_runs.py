"""Runs that were changed, damaged, copied or are under way."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

import mmdit
from mmdit.weights.checkpoints import newest_checkpoint
from mmdit_cli.errors import UserError
from mmdit_cli.toy import checkpoints
from mmdit_cli.toy.run_folder import LOCK, described, safe_name
from mmdit_cli.toy.training import Interrupted, train
from tests.support.marks import slow_but
from tests.support.toy import CPU, same_bits, tiny, train_tiny, weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that no test changes."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_tiny(folder, steps=6)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """One of six steps, with the checkpoints of the last four, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.usefixtures("bare_training")
def test_a_second_run_in_a_folder_is_refused_while_the_first_goes_on(tmp_path):
    refusals = []

    def second(step, *rest):
        for resume in (False, True):
            with pytest.raises(
                UserError, match=rf"another run is under way in it \(process {os.getpid()} on "
            ) as caught:
                train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=resume)
            refusals.append(caught.value)

    train(tiny(steps=1), device=CPU, run_dir=tmp_path / "run", on_progress=second)
    assert len(refusals) == 2 and not (tmp_path / "run" / LOCK).exists()


@pytest.mark.usefixtures("bare_training")
def test_the_lock_file_of_a_killed_run_is_in_nobodys_way(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).write_text("process 1 on nowhere")
    assert train(tiny(), device=CPU, run_dir=tmp_path / "run").steps == 6


@pytest.mark.slow
@pytest.mark.usefixtures("bare_training")
def test_a_change_is_refused_then_allowed_and_written_down(tmp_path):
    folder, messages = tmp_path / "run", []
    train(tiny(steps=4), device=CPU, run_dir=folder)
    with pytest.raises(UserError, match=r"steps was 4, is 6.*--allow-changes"):
        train(tiny(), device=CPU, run_dir=folder, resume=True)
    changed = dict(device=CPU, run_dir=folder, resume=True, on_message=messages.append)
    assert train(tiny(), allow_changes=True, **changed).steps == 6
    assert messages == ["going on from step 4 with changes: config.train.steps was 4, is 6"]
    identity, changes = described(folder)
    assert identity["config"]["train"]["steps"] == 6
    assert changes == [{"step": 4, "changes": ["config.train.steps was 4, is 6"]}]
    train(tiny(), **changed)  # it is the run's own config now
    assert len(messages) == 1 and described(folder)[1] == changes


@pytest.mark.parametrize(
    ("other", "why"),
    [(tiny(steps=2), "train.steps is 2, and .* has done 6"), (tiny(sound=True), "weights.*: .*audio.* is missing")],
)
@pytest.mark.usefixtures("bare_training")
def test_a_change_that_does_not_fit_the_run_is_refused_all_the_same(other, why, run):
    file = run / "checkpoint-00000006" / "weights.safetensors"
    before = file.read_bytes()
    with pytest.raises(UserError, match=why):
        train(other, device=CPU, run_dir=run, resume=True, allow_changes=True)
    assert file.read_bytes() == before


@pytest.mark.usefixtures("bare_training")
def test_a_config_edited_before_the_first_checkpoint_is_noticed(tmp_path):
    def stop(step, *rest):
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train(tiny(), device=CPU, run_dir=tmp_path / "run", on_progress=stop)
    assert newest_checkpoint(tmp_path / "run") == (None, [])
    with pytest.raises(UserError, match="seed was 0, is 1"):
        train(tiny(), device=CPU, seed=1, run_dir=tmp_path / "run", resume=True)


def test_a_digit_changed_in_a_checkpoints_json_is_found(run):
    path = run / "checkpoint-00000006" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"averaged": 5}))
    checkpoint, problems = newest_checkpoint(run)
    assert checkpoint.step == 4 and "state.json does not match" in problems[0]
    with pytest.warns(UserWarning, match="checkpoint-00000006 is damaged .*; passed over"):
        loaded = mmdit.load(run).state_dict()
    assert same_bits(loaded, load_file(checkpoint.path / "ema.safetensors"))
    del state["sha256"]["state.json"]  # as earlier versions wrote it
    path.write_text(json.dumps(state))
    assert newest_checkpoint(run)[0].step == 6


@pytest.mark.usefixtures("bare_training")
def test_a_users_copies_of_checkpoints_neither_count_nor_go(run):
    for name in ("checkpoint-best", "checkpoint-old", "checkpoint-4"):
        shutil.copytree(run / "checkpoint-00000004", run / name)
    train(tiny(steps=8), device=CPU, run_dir=run, resume=True, allow_changes=True)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [
        "checkpoint-00000006", "checkpoint-00000008", "checkpoint-4", "checkpoint-best", "checkpoint-old"
    ]  # fmt: skip


def forged(folder: Path, files: dict[str, bytes], **changes: object) -> None:
    """A checkpoint whose checksums are right and whose content is not."""
    state = json.loads((folder / "state.json").read_text()) | changes
    for name, content in files.items():
        (folder / name).write_bytes(content)
        state["sha256"][name] = hashlib.sha256(content).hexdigest()
    del state["sha256"]["state.json"]
    (folder / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize(
    "changes",
    slow_but([{"step": float("inf")}, {"step": 5}, {"step": "6"}, {"averaged": "x"}, {"averaged": -1}], {"step": 5}),
    ids=str,
)
def test_a_state_that_says_nonsense_is_passed_over(changes, run):
    forged(run / "checkpoint-00000006", {}, **changes)
    checkpoint, problems = newest_checkpoint(run)
    assert checkpoint.step == 4 and len(problems) == 1 and "checkpoint-00000006 is damaged" in problems[0]


MOMENTS = ("step", "exp_avg", "exp_avg_sq")
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "tensors", "why"),
    [
        ("weights.safetensors", None, "weights.safetensors: "),
        pytest.param("optimizer.safetensors", None, "optimizer.safetensors: ", marks=SLOW),
        pytest.param("optimizer.safetensors", {"0.x.y": torch.zeros(1)}, "0.x.y is not in the model", marks=SLOW),
        pytest.param("optimizer.safetensors", {"9999.step": torch.zeros(())}, "9999.step is not in", marks=SLOW),
        pytest.param("optimizer.safetensors", {"0.step": torch.zeros(())}, "0.exp_avg.* is missing", marks=SLOW),
        ("optimizer.safetensors", {f"0.{k}": torch.zeros(3, 1) for k in MOMENTS}, "shape .3, 1"),
    ],
)
@pytest.mark.usefixtures("bare_training")
def test_a_checkpoint_of_something_else_is_one_message(name, tensors, why, run):
    content = b"junk" if tensors is None else save(tensors)
    forged(run / "checkpoint-00000006", {name: content})
    with pytest.raises(UserError, match=f"checkpoint-00000006 does not fit the config: .*{why}"):
        train(tiny(), device=CPU, run_dir=run, resume=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "[" * 100_000),
        pytest.param("config.yaml", "[" * 3000 + "]" * 3000, marks=SLOW),
        pytest.param("config.yaml", "train: !!set {a, b}\n", marks=SLOW),
        pytest.param("config.yaml", "a: &a [x, x]\nb: &b [*a, *a]\n" + "c: [" + "*b, " * 30_000 + "]\n", marks=SLOW),
        ("config.yaml", "train: 0x" + "f" * 20_000),
    ],
    ids=lambda text: text[:12],
)
@pytest.mark.usefixtures("bare_training")
def test_what_a_run_says_of_itself_is_read_without_trust(name, content, tmp_path):
    run = tmp_path / "run"
    train(tiny(steps=1), device=CPU, run_dir=run)
    (run / name).write_text(content)
    described(run)  # raises nothing; whatever it finds, a checkpoint says more
    assert train(tiny(steps=1), device=CPU, run_dir=run, resume=True).steps == 1


@pytest.mark.usefixtures("bare_training")
def test_a_full_disk_says_where_it_stopped_and_leaves_the_checkpoint_before(finished, tmp_path, monkeypatch):
    wanted = load_file(finished / "checkpoint-00000006" / "weights.safetensors")
    write, calls = checkpoints.write_tensors, []

    def full(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*args)

    monkeypatch.setattr(checkpoints, "write_tensors", full)
    with pytest.raises(UserError, match=r"No space left on device, at step 4; go on later with: mmdit train-toy "):
        train(tiny(), device=CPU, run_dir=tmp_path / "run")
    assert newest_checkpoint(tmp_path / "run")[0].step == 2
    assert same_bits(weights(train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=True)), wanted)


def test_a_name_that_the_system_can_not_write_gives_a_folder_that_it_can(monkeypatch):
    assert safe_name("模型/é") == "模型-é"

    def ascii_only(name):
        return name.encode("ascii")

    monkeypatch.setattr("os.fsencode", ascii_only)
    assert safe_name("a 模型") == "a" and safe_name("模型") == "run"
