"""Drawing from a trained run: what is drawn is what its averaged weights give, and what is said is what is there."""

from __future__ import annotations

import json
import shutil
import wave
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import torch

import mmdit
from mmdit_cli.commands.json_schemas import document_schema
from mmdit_cli.errors import UserError
from mmdit_cli.toy.data import hash_seed
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.evaluation import STARTS, Samples
from mmdit_cli.toy.plots import sample_plot
from mmdit_cli.toy.scenes.source import Scenes
from mmdit_cli.toy.shown_samples import PAUSE, RATE, REPEATED
from mmdit_cli.toy.trained_run import TrainedRun
from mmdit_cli.toy.world import SAMPLES, World
from tests.support.toy import tiny, train_tiny

CAPTION = "a small red square in the top left"
Run = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of pictures and tones, with two checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    train_tiny(folder, sound=True)
    return folder


def test_a_step_without_guidance_is_the_noise_less_the_velocity_of_the_averaged_weights(run: Path) -> None:
    drawn = TrainedRun(run).draw([CAPTION, CAPTION.upper() + "."], steps=1, guidance=1.0, seed=3)
    model, data = mmdit.load(run), World(sound=True)
    ids, mask = data.encode([CAPTION] * 2)
    generator = torch.Generator().manual_seed(hash_seed(3, STARTS))
    shapes = {"image": (2, 3, 16, 16), "audio": (2, 16, 16)}
    noise = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    with torch.no_grad():
        velocity = model({"text": ids, **noise}, torch.ones(2), masks={"text": mask})
    for name, x in drawn.data.items():
        torch.testing.assert_close(x, noise[name] - velocity[name])
    assert drawn.batch.captions == [CAPTION, CAPTION] and not torch.equal(
        drawn.data["image"][0], drawn.data["image"][1]
    )


def test_the_command_writes_picture_and_sound_and_says_what_the_oracle_reads(run: Path, run_command: Run) -> None:
    words = [
        "sample",
        str(run),
        "--caption",
        CAPTION,
        "--caption",
        "a low tone, loud",
        "--steps",
        "2",
        "--out",
        "x.png",
    ]
    done = run_command(*words, "--json", "--report", "x.html")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, document_schema("sample"))
    samples = TrainedRun(run).draw([CAPTION, "a low tone , loud"], steps=2)
    first, second = document["results"]
    assert first["reads"] == {name: each[0] for name, each in samples.reads.items()}
    assert first["right"]["image"] is (samples.reads["image"][0] == "small red square, top left")
    assert first["right"]["audio"] is None and second["right"]["image"] is None
    assert (first["training_steps"], first["steps"], first["guidance"]) == (4, 2, 2.0)
    with wave.open(first["files"]["audio"]) as sound:
        assert sound.getnframes() == 2 * SAMPLES * REPEATED + PAUSE and sound.getframerate() == RATE
    assert Path("x.png").read_bytes().startswith(b"\x89PNG")
    page = Path("x.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 2 and document["samples"][0]["media"]["image"] in page
    shown = run_command(*words)
    assert "will be replaced" in shown.stderr and samples.reads["audio"][1] in shown.stdout
    assert "not asked" in shown.stdout


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("a qqq square", r"does not know qqq\. Its words: "),
        ("a smal square", "did you mean small?"),
        (" . ", "expected 1 to 24 words, got 0"),
        ("a square " * 13, "expected 1 to 24 words, got 26"),
    ],
)
def test_a_caption_that_the_run_cant_read_is_refused(run: Path, caption: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        TrainedRun(run).draw([caption])


def test_a_request_that_can_not_be_is_refused(run: Path, tmp_path: Path) -> None:
    trained = TrainedRun(run)
    for captions in ([], "a red square"):
        with pytest.raises(UserError, match="expected a list of one or more"):
            trained.draw(captions)
    with pytest.raises(UserError, match="expected 1 whole step or more"):
        trained.draw(["a red square"], steps=1.5)  # type: ignore[arg-type]
    samples = trained.draw(["a red square"], steps=1)
    for name in ("x", "x.gif", "x.wav"):
        with pytest.raises(UserError, match=r"\.png"):
            trained.save(samples, tmp_path / name)


def test_what_is_no_run_or_has_no_whole_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    def problem(folder: Path) -> str:
        with pytest.raises(UserError) as caught:
            TrainedRun(folder)
        return str(caught.value)

    assert problem(tmp_path / "none").endswith("there is no such folder")
    assert "its runs are mine" in problem(run.parent)
    assert "is no run of mmdit train-toy; train one" in problem(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    newest = copy / "checkpoint-00000004"
    (newest / "ema.safetensors").write_bytes(b"")
    told: list[str] = []
    assert TrainedRun(copy, on_problem=told.append).step == 2
    assert "checkpoint-00000004 is damaged" in told[0]
    shutil.rmtree(copy / "checkpoint-00000002")
    assert "holds no whole checkpoint" in problem(copy) and "--resume" in problem(copy)
    shutil.rmtree(newest)
    assert "has no checkpoint yet" in problem(copy)


def test_what_captions_of_training_ask_for_is_understood() -> None:
    for sound in (False, True):
        batch = World(sound=sound).batch(300, seed=5, stream=1, index=0)
        asked = batch.source.asked(batch.captions)
        assert all(torch.equal(asked.attributes[name], each) for name, each in batch.attributes.items())
    scenes = Scenes(16).batch(600, seed=5, stream=1, index=0)
    asked = scenes.source.asked(scenes.captions)
    for name in ("category", "relation", "objects"):
        assert torch.equal(getattr(asked.wanted, name), getattr(scenes.wanted, name)), name


@pytest.mark.parametrize(
    "caption",
    [
        *("two circle", "a circles", "red", "two red circles in the top left", "a circle and a circle and a circle"),
        *("two circles and a square", "a red blue circle"),
    ],
)
def test_a_caption_of_scenes_worded_otherwise_is_not_judged(caption: str) -> None:
    batch = Scenes(16).asked([caption, "a circle"])
    samples = Samples(batch, {"image": Scenes(16).batch(2, seed=0, stream=0, index=0).data["image"]})
    assert samples.verdict("image", 0) is None and samples.verdict("image", 1) is not None
    figure = sample_plot(samples, reads=True)
    assert any(text.get_text().startswith("– ") for text in figure.texts)


def test_what_is_read_is_said_in_words() -> None:
    world = World(sound=True).batch(1, seed=0, stream=0, index=0)
    assert "tone" in Samples(world, world.data).reads["audio"][0]
    scenes = Scenes(16).batch(60, seed=2, stream=1, index=0)
    reads = Samples(scenes, scenes.data).reads["image"]
    shown = scenes.attributes["image"].unflatten(1, (4, 3))
    assert [each.count(",") + 1 for each in reads] == (shown[..., 0] >= 0).sum(dim=1).tolist()
    assert world_of(tiny()).in_words("image", world.data["image"]) == Samples(world, world.data).reads["image"]
    assert Scenes(16).in_words("image", torch.zeros(1, 3, 16, 16)) == ["nothing"]
