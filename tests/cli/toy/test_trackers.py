"""Trackers that a run is told to: what each is given, and that none is what the run depends on."""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
import wave
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from matplotlib.image import imread, imsave

from mmdit_cli.toy.trackers import KINDS, Tracked, Trackers
from mmdit_cli.toy.training import Interrupted, train
from tests.support.marks import slow_but
from tests.support.toy import CPU, tiny

Fakes = dict[str, list[Any]]


class Media:
    """As `wandb.Image`, `wandb.Audio`, `trackio.Image` and `trackio.Audio` take a file, which they copy when logged."""

    def __init__(self, kind: str, path: str) -> None:
        self.kind, self.name, self.size = kind, Path(path).name, Path(path).stat().st_size


def fake_run(calls: list[Any]) -> Any:
    run = ModuleType("run")

    def log(data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        calls.append(("log", step, data))

    run.log, run.finish = log, lambda exit_code=None: calls.append(("finish",))  # type: ignore[attr-defined]
    return run


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """What `wandb` 0.31 and `trackio` 0.43 are called with, whose signatures these have."""
    calls: Fakes = {"wandb": [], "trackio": []}

    def wandb_init(
        entity: str | None = None,
        project: str | None = None,
        dir: str | None = None,
        id: str | None = None,
        name: str | None = None,
        config: dict[str, Any] | None = None,
        allow_val_change: bool | None = None,
        group: str | None = None,
        mode: Literal["online", "offline", "disabled", "shared"] | None = None,
        resume: Literal["allow", "never", "must", "auto"] | None = None,
        reinit: Literal["default", "return_previous", "finish_previous", "create_new"] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Any:
        calls["wandb"].append(("init", {**locals()}))
        return fake_run(calls["wandb"])

    def trackio_init(
        project: str,
        name: str | None = None,
        group: str | None = None,
        space_id: str | None = None,
        config: dict[str, Any] | None = None,
        resume: str = "never",
        embed: bool = True,
    ) -> Any:
        calls["trackio"].append(("init", {**locals()}))
        print(f"* Trackio project initialized: {project}")
        return fake_run(calls["trackio"])

    inits: dict[str, Callable[..., Any]] = {"wandb": wandb_init, "trackio": trackio_init}
    for kind, init in inits.items():
        module: Any = ModuleType(kind)
        module.__spec__ = ModuleSpec(kind, None)
        module.init = init
        module.Image, module.Audio = (lambda path, each=each: Media(each, path) for each in ("Image", "Audio"))
        module.finish = lambda kind=kind: calls[kind].append(("finish",))
        monkeypatch.setitem(sys.modules, kind, module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return calls


@pytest.mark.usefixtures("bare_training")
def test_both_are_told_of_the_config_and_every_number_and_a_resumed_run_is_the_same_run(
    tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmdit_cli.toy.training._picture", lambda samples, path, trainer: draw(path))
    folder, both, said = tmp_path / "run", ("wandb", "trackio"), list[str]()
    config = tiny(sound=True, evaluate_every=3)

    def stop(step: int, *rest: Any) -> None:
        if step == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(config, device=CPU, seed=7, run_dir=folder, track=both, on_progress=stop, on_message=said.append)
    train(config, device=CPU, seed=7, run_dir=folder, track=both, resume=True)
    run_id = json.loads((folder / "run.json").read_text())["run_id"]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for kind, calls in fakes.items():
        begun = [what for name, what in (call for call in calls if call[0] == "init")]
        assert len(begun) == 2 == sum(call == ("finish",) for call in calls)
        assert {each["name"] for each in begun} == {"tiny-seed7" if kind == "wandb" else f"tiny-seed7-{run_id}"}
        assert {(each["resume"], each["group"], each["project"]) for each in begun} == {("allow", "tiny", "mmdit-toy")}
        told = begun[0]["config"]
        assert (told["seed"], told["dtype"], told["model"]["depth"]) == (7, "fp32", 1)
        logged = [call[1:] for call in calls if call[0] == "log"]
        losses = [(step, data["loss"]) for step, data in logged if "loss" in data]
        assert losses == [(each["step"], each["loss"]) for each in records if "loss" in each]
        assert [step for step, data in logged if "accuracy/audio" in data] == [3, 6]
        shown = [(step, name, each.kind) for step, data in logged for name, each in data.items() if type(each) is Media]
        wanted = [(step, *each) for step in (3, 6) for each in (("samples", "Image"), ("audio", "Audio"))]
        assert [each for each in shown if each[1] in ("samples", "audio")] == wanted
    offline = fakes["wandb"][0][1]
    assert (offline["mode"], offline["id"], offline["dir"]) == ("offline", run_id, str(folder))
    assert offline["reinit"] == "create_new"
    assert any("wandb sync" in text for text in said) and any("trackio show" in text for text in said)
    assert capsys.readouterr().out == ""


def draw(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    imsave(path, [[0.0, 1.0]])


@pytest.mark.usefixtures("bare_training")
@pytest.mark.parametrize("when", slow_but(["init", "log"], "log"))
def test_a_tracker_that_fails_is_named_once_and_the_run_goes_on(
    tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def fail(*given: Any, **named: Any) -> Any:
        raise RuntimeError("its server is gone\nand more")

    broken, closed = ModuleType("run"), list[bool]()
    broken.log, broken.finish = fail, lambda: closed.append(True)  # type: ignore[attr-defined]
    monkeypatch.setattr(sys.modules["wandb"], "init", fail if when == "init" else lambda **named: broken)
    said = list[str]()
    result = train(tiny(), device=CPU, run_dir=tmp_path / "run", track=("wandb", "trackio"), on_message=said.append)
    (failed,) = [text for text in said if "told nothing more" in text]
    assert failed.startswith("wandb is told nothing more (its server is gone);")
    assert closed == [True] * (when == "log")  # or the next run would be taken for this one
    assert result is not None and result.steps == 6
    assert [call[0] for call in fakes["trackio"]].count("log") >= 7 and fakes["trackio"][-1] == ("finish",)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--track", "wandb"], "--track wandb needs a package: pip install 'mmdit-cli[wandb]'"),
        (["--track", "mlflow"], "--track mlflow: expected tensorboard, trackio, wandb"),
        (["--tensorboard"], "--tensorboard needs a package: pip install 'mmdit-cli[tensorboard]'"),
    ],
)
def test_a_tracker_that_can_t_be_told_is_one_message_before_any_work(
    run_command: Any, monkeypatch: pytest.MonkeyPatch, asked: list[str], said: str
) -> None:
    for kind in KINDS:
        monkeypatch.setitem(sys.modules, kind, None)
    done = run_command("train-toy", "-c", "toy-two-modality", *asked)
    assert done.returncode == 2 and done.stdout == "" and said in done.stderr
    assert not Path("runs").exists()


def told(kind: str, folder: Path, say: Callable[[str], None] = pytest.fail) -> None:
    """Tell a tracker of a run with one number, one picture and one sound."""
    folder.mkdir(exist_ok=True)
    imsave(folder / "samples.png", [[0.0, 1.0]])
    with wave.open(str(folder / "samples.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(4000)
        sound.writeframes(b"\x00\x40" * 400)
    trackers = Trackers(say)
    trackers.start([kind], Tracked(folder, "tiny", 7, "0123456789ab", 0, {"seed": 7, "model": {"depth": 1}}))
    trackers.log({"step": 1, "loss": 0.5, "losses": {"image": 0.25}, "final": True})
    trackers.show(1, {"samples": folder / "samples.png", "audio": folder / "samples.wav", "gone": folder / "no.png"})
    assert list(trackers.told) == [kind]
    trackers.close()


def test_tensorboard_has_pictures_and_sounds_as_well(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    told("tensorboard", tmp_path)
    found = events.EventAccumulator(str(tmp_path))
    found.Reload()
    tags = found.Tags()
    assert (tags["images"], tags["audio"]) == (["samples"], ["audio"]) and "config/text_summary" in tags["tensors"]
    (picture,), (sound,) = found.Images("samples"), found.Audio("audio")
    (tmp_path / "again.png").write_bytes(picture.encoded_image_string)
    assert (imread(tmp_path / "again.png")[..., :3] == imread(tmp_path / "samples.png")[..., :3]).all()
    assert (sound.sample_rate, sound.length_frames) == (4000, 400)


@pytest.mark.slow
def test_the_real_wandb_keeps_its_offline_runs_in_the_folder(tmp_path: Path) -> None:
    wandb, said = pytest.importorskip("wandb"), list[str]()
    for _ in range(2):
        told("wandb", tmp_path / "run", said.append)
    assert len(said) == 2 and all("wandb sync" in text for text in said) and wandb.run is None
    files = [*(tmp_path / "run" / "wandb").glob("offline-run-*-0123456789ab/run-0123456789ab.wandb")]
    assert files and all(path.stat().st_size for path in files)


@pytest.mark.slow
def test_the_real_trackio_has_one_run_in_its_local_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    for _ in range(2):
        told("trackio", tmp_path / "run", lambda said: None)
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as database:
        runs = database.execute("select distinct run_id, run_name from metrics").fetchall()
        kept = str(database.execute("select metrics from metrics").fetchall())
    assert [name for _, name in runs] == ["tiny-seed7-0123456789ab"]
    assert all(word in kept for word in ('"loss":0.5', "trackio.image", "trackio.audio"))
