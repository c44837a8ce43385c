"""What a repository of the Hub holds, told from its headers: no tensor is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mmdit
from mmdit.weights.hub import heads
from mmdit.weights.hub.repositories import Repository, fetch
from mmdit_cli.request.hub_weights import Headers
from tests.support.hub_server import serving
from tests.support.quantized_files import save_gguf

NAME = "org/small"
CONFIG = {"depth": 1, "modalities": {"text": {"dim": 64}, "image": {"dim": 64}}, "heads": 1, "dim_head": 64}


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A repository with shards, of which no more than 1,000 bytes are asked for at first."""
    monkeypatch.setattr(heads, "FIRST", 1000)
    with serving(monkeypatch, tmp_path / "cache") as server:
        mmdit.save(mmdit.build(CONFIG), tmp_path / "made", max_shard_size="300KB")
        server.put(NAME, tmp_path / "made")
        yield server


@pytest.fixture
def asked(run_command):
    def ask(*arguments, code=0):
        done = run_command("shape-check", *arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)["results"][0] if code == 0 else done.stderr

    return ask


def test_of_a_repository_the_headers_alone_are_read(published, asked, tmp_path):
    found = asked("--weights", NAME)
    assert found["ok"] and found["file"] == f"{NAME}/model.safetensors.index.json" and "shards" in found["format"]
    assert found["parameters"] == sum(p.numel() for p in mmdit.build(CONFIG).parameters())
    assert found["next"] == [f"hf download {NAME} --local-dir FOLDER"]
    (tmp_path / "c.json").write_text(json.dumps({"model": CONFIG}))
    checked = asked("-c", "c.json", "--weights", f"{NAME}@main")
    assert checked["ok"] and checked["weights"]["file"] == f"{NAME}@main/model.safetensors.index.json"
    shards = {name: sent for name, sent in published.sent.items() if name.endswith(".safetensors")}
    assert len(shards) > 1 and sum(shards.values()) < found["bytes"] / 10
    assert not (tmp_path / "cache").exists()


def test_a_small_file_that_comes_whole_makes_no_other_come_so(published, asked, tmp_path):
    published.whole = {"config.json", "model.safetensors.index.json"}
    assert asked("--weights", NAME)["ok"] and not (tmp_path / "cache").exists()


def test_a_size_that_can_not_be_is_not_believed(published, tmp_path):
    import huggingface_hub as hub

    shard = next(name for name in published.repositories[NAME] if "-00002-" in name)
    for said in ("bytes 0-9/" + "9" * 5000, "bytes 5-9/100", "bytes 0-9/*"):
        published.said = said
        with pytest.raises(heads.NotThisWayError):
            heads.write_heads(hub, NAME, [shard], tmp_path / "heads", commit=published.commit(NAME), token=False)


@pytest.mark.parametrize(
    ("command", "downloads"),
    [
        ("mmdit export -c 'org/small' --out c.safetensors", True),
        ("mmdit export -c CONFIG --weights W --lora org/small/lora.safetensors:1 --out c.safetensors", True),
        ("mmdit export -c sd3-medium --weights org/small --out c.safetensors", False),
    ],
)
def test_a_command_that_takes_paths_alone_is_one_after_a_download(command, downloads):
    found = Headers(Path("here"), "/tmp/a b/", Repository(NAME)).possible(command)
    assert found == (f"hf download {NAME} --local-dir FOLDER" if downloads else command)


def test_what_the_cache_holds_is_not_asked_for_again(published, asked, tmp_path):
    fetch(Repository(NAME))
    published.sent.clear()
    found = asked("--weights", NAME)
    assert found["ok"] and found["file"].startswith(str(tmp_path / "cache")) and published.sent == {}


def test_a_server_that_sends_whole_files_alone_sends_them(published, asked, tmp_path):
    published.ranges = False
    found = asked("--weights", NAME)
    assert found["ok"] and found["file"].startswith(str(tmp_path / "cache"))


def test_what_a_repository_holds_in_place_of_weights_is_named(published, asked):
    files = published.repositories[NAME]
    shard = next(name for name in files if "-00002-" in name)
    for name, content, message in (
        ("pytorch_model.bin", b"PK\x03\x04" + bytes(2000), "a zip archive, as torch.save writes"),
        ("empty.safetensors", b"", "it is empty"),
        ("cut.safetensors", files[shard][:2000], "truncated: "),
        ("long.safetensors", (1 << 20).to_bytes(8, "little") + b"{" + bytes(2000), "truncated: its header reaches"),
    ):
        files[name] = content
        said = asked("--weights", f"{NAME}/{name}", code=2)
        assert said.splitlines()[-1].startswith(f"error: {NAME}/{name}: ") and message in said
    published.cut.add(shard)
    assert "gave no whole answer" in asked("--weights", NAME, code=2)


@pytest.mark.slow
def test_the_header_of_a_gguf_file_is_read_however_long_it_is(published, asked, tmp_path):
    pytest.importorskip("gguf")
    save_gguf(mmdit.build(CONFIG).state_dict(), tmp_path / "x.gguf")
    published.repositories[NAME]["x.gguf"] = (tmp_path / "x.gguf").read_bytes()
    found = asked("--weights", f"{NAME}/x.gguf", code=1)
    assert found.splitlines()[-1].startswith(f"error: {NAME}/x.gguf: ")
