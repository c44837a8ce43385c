"""Networks to and from the Hub: the loading code is `huggingface_hub`'s own, the Hub a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmdit
from mmdit.weights.hub.repositories import Repository, as_repository, fetch
from mmdit.weights.hub.tokens import masked
from mmdit.weights.saved_model import CheckpointError
from tests.support.hub_server import HubServer, serving
from tests.support.shipped_networks import outputs, small_network

NAME = "org/small"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with serving(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.fixture(scope="module")
def network():
    return small_network("flux.1-schnell")


@pytest.fixture(scope="module")
def made(network, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    network[0].save_pretrained(folder, max_shard_size="100KB")
    return folder


@pytest.fixture
def published(hub, made) -> HubServer:
    """The Hub with a repository that `save_pretrained` wrote, in several files."""
    hub.put(NAME, made)
    hub.repositories[NAME] |= {"pytorch_model.bin": b"never read", "notes.txt": b""}
    return hub


def same(model, network) -> bool:
    net, call = network
    with torch.no_grad():
        return all(torch.equal(a, b) for a, b in zip(outputs(model(**call)), outputs(net(**call)), strict=True))


def test_what_was_pushed_comes_back_from_the_hub_and_then_from_the_cache(hub, network):
    url = network[0].push_to_hub(NAME, max_shard_size="100KB", commit_message="first")
    assert url.startswith(f"{hub.endpoint}/{NAME}/commit/")
    assert {"README.md", "config.json", "model.safetensors.index.json"} <= hub.repositories[NAME].keys()
    assert same(mmdit.MMDiTModel.from_pretrained(NAME), network)
    hub.stop()
    assert not fetch(Repository(NAME)).online
    assert same(mmdit.MMDiTModel.from_pretrained(NAME, verify=True), network)
    half = mmdit.MMDiTModel.from_pretrained(NAME, dtype=torch.bfloat16, local_files_only=True)
    assert not half.training and {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.slow
def test_a_whole_push_replaces_the_shards_of_an_older_one_and_leaves_other_files(hub, network):
    old = mmdit.build(network[0].config)
    old.push_to_hub(NAME, max_shard_size="100KB")
    hub.repositories[NAME] |= {"models/model.safetensors": b"another's", "model-a.safetensors": b""}
    network[0].push_to_hub(NAME)
    own = {"README.md", "config.json", "model.safetensors"}
    assert hub.repositories[NAME].keys() == own | {"models/model.safetensors", "model-a.safetensors"}
    assert same(mmdit.MMDiTModel.from_pretrained(NAME), network)
    old.push_to_hub(NAME, allow_patterns=["README.md"])  # the card alone: the weights stay
    assert "model.safetensors" in hub.repositories[NAME]


@pytest.mark.slow
def test_of_a_repository_the_weights_and_what_describes_them_are_downloaded_and_nothing_else(published):
    mmdit.MMDiTModel.from_pretrained(NAME)
    read = {each.rpartition("/")[2] for each in published.asked if each.startswith("GET") and "/resolve/" in each}
    assert "config.json" in read and all(each.startswith("model") for each in read - {"config.json"})


def test_a_path_that_is_there_comes_before_a_repository(published, network, tmp_path):
    (tmp_path / "org").mkdir()
    small_network("sd3-medium")[0].save_pretrained(NAME)
    assert mmdit.MMDiTModel.from_pretrained(NAME).config != network[0].config
    assert published.asked == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("org/repo", Repository("org/repo")),
        ("org/repo@v1.0", Repository("org/repo", "v1.0")),
        ("org/repo/transformer/a.safetensors", Repository("org/repo", None, "transformer/a.safetensors")),
        ("org/repo.safetensors", None),  # a file that is missing
        ("runs/toy", None),  # in a folder that is there
        ("./org/repo", None),
        (Path("./org/repo"), None),  # which has lost its ./
        ("/org/repo", None),
        ("org/repo/../x", None),
        ("org/repo//x", None),
        ("repo", None),
        ("a/" * 3000, None),
    ],
)
def test_which_names_are_those_of_repositories(name, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert as_repository(name) == found


def test_what_can_not_be_had_is_one_message_that_says_why(published, monkeypatch):
    from huggingface_hub import file_download

    published.gated.add("org/closed")
    for name, message in {
        "org/none": "is no file or folder here, and .* has no such repository, or a private one",
        "org/closed": f"is gated; agree to its terms at {published.endpoint}/org/closed, then sign in",
        f"{NAME}@v9": "has no revision v9",
        f"{NAME}/other.safetensors": "has no other.safetensors; it has model-00001",
        f"{NAME}/pytorch_model.bin": "not a whole safetensors file",
        "a--b/..c": "no name of a repository",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            mmdit.MMDiTModel.from_pretrained(name)
    with pytest.raises(CheckpointError, match="not in the Hub's cache, which alone was to be asked"):
        mmdit.MMDiTModel.from_pretrained("org/other", local_files_only=True)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    published.cut.add("model-00002-of-00005.safetensors")
    with pytest.raises(CheckpointError, match=f"{NAME}: .* gave no whole answer .*; try again, what came of"):
        mmdit.MMDiTModel.from_pretrained(NAME)
    published.cut.clear()
    assert mmdit.MMDiTModel.from_pretrained(NAME).config


def test_a_branch_that_moves_while_it_is_read_gives_one_commit(published, network, monkeypatch):
    import huggingface_hub

    listed = huggingface_hub.HfApi.model_info
    commits = []

    def moved(api, *arguments, **options):
        found = listed(api, *arguments, **options)
        commits.append(found.sha)
        published.repositories[NAME] = {"README.md": b"all is gone"}
        return found

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", moved)
    with pytest.raises(CheckpointError, match=f"{NAME}: "):
        mmdit.MMDiTModel.from_pretrained(NAME)
    assert {each.split("/")[5] for each in published.asked if "/resolve/" in each} <= set(commits)


def test_offline_a_file_that_was_read_once_is_not_taken_for_the_repository(published):
    single = published.repositories[NAME]["model-00001-of-00005.safetensors"]
    published.repositories[NAME]["d/old.safetensors"] = single
    assert fetch(Repository(NAME, None, "d/old.safetensors")).online
    with pytest.raises(CheckpointError, match=f"name the file, as in {NAME}/d/old.safetensors"):
        fetch(Repository(NAME), local_files_only=True)
    with pytest.raises(
        CheckpointError, match=f"the cache holds d/old.safetensors, .* name the file, as in {NAME}/d/old"
    ):
        fetch(Repository(NAME, None, "d"), local_files_only=True)
    assert fetch(Repository(NAME, None, "d/old.safetensors"), local_files_only=True).path.is_file()


@pytest.mark.slow
def test_offline_an_incomplete_download_says_so_and_goes_on_online(published):
    found = fetch(Repository(NAME))
    (found.path / "model-00002-of-00005.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is incomplete: model-00002-of-00005.safetensors is not .* online downl"):
        fetch(Repository(NAME), local_files_only=True)
    assert fetch(Repository(NAME)).online and fetch(Repository(NAME), local_files_only=True).path == found.path


def test_who_is_refused_gets_nothing_old_and_who_finds_nobody_does(published, monkeypatch):
    import huggingface_hub

    published.repositories["org/empty"] = {}
    with pytest.raises(CheckpointError, match="^org/empty: has no files$"):
        fetch(Repository("org/empty"))
    fetch(Repository(NAME))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for status, message in {401: r"refused it \(401\)", 403: r"refused it \(403\)", 429: "too many requests"}.items():
        published.status = status
        with pytest.raises(CheckpointError, match=message):
            fetch(Repository(NAME))
    published.status = 503
    assert not fetch(Repository(NAME)).online
    published.status = None

    def broken(*arguments, **options):
        raise KeyError("inside")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(CheckpointError, match="could not be had from the Hub .KeyError: 'inside'") as caught:
        fetch(Repository(NAME))
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_connection_that_is_lost_after_the_listing_is_called_that(published, monkeypatch):
    import huggingface_hub

    def lost(*arguments, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here") from ConnectionResetError("gone")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lost)
    with pytest.raises(CheckpointError, match="gave no whole answer .ConnectionResetError: gone.; try again"):
        fetch(Repository(NAME))


@pytest.mark.parametrize("token", ["hf_SECRET x", "hf_SECRET\nx", "hf_SECRÉT", " "])
def test_a_token_that_can_not_be_one_is_refused_and_not_quoted(token):
    with pytest.raises(ValueError, match="token: expected printable ASCII") as caught:
        fetch(Repository(NAME), token=token)
    assert "SECR" not in str(caught.value)


def test_the_end_of_a_line_goes_from_a_token_and_secrets_from_messages(published):
    assert fetch(Repository(NAME), token="hf_SECRET\n").online
    said = "b'Bearer hf_SECRET\\n' at https://me:pass@host/a?X-Signature=SECRET, hf_SECRETSECRET"
    assert masked(said) == "b'Bearer *** at https://***@host/a?*** hf_***"


def test_a_config_that_is_damaged_or_hostile_is_the_houses_own_error(published):
    files = published.repositories[NAME]
    whole = {name: x for name, x in files.items() if name.endswith((".safetensors", ".json"))}
    for content, message in {
        b"[" * 100_000: None,  # what the weights say of themselves is enough
        json.dumps({"_class_name": "os.system"}).encode(): "is no class of a network that mmdit knows",
    }.items():
        published.repositories[NAME] = whole | {"config.json": content}
        if message is None:
            assert mmdit.MMDiTModel.from_pretrained(NAME).config
        else:
            with pytest.raises(ValueError, match=message):
                mmdit.MMDiTModel.from_pretrained(NAME)
    index = {"weight_map": {"x": "../../../secret.safetensors"}}
    published.repositories[NAME] = whole | {"model.safetensors.index.json": json.dumps(index).encode()}
    with pytest.raises(CheckpointError, match="is not a file's name in the same folder"):
        mmdit.MMDiTModel.from_pretrained(NAME)


def test_without_the_package_the_extra_is_named(monkeypatch, network):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "mmdit.weights.hub.mixin", raising=False)
    with pytest.raises(CheckpointError, match=r"org/small: is no file .* pip install 'mmdit-cli\[hub\]'"):
        mmdit.MMDiTModel.from_pretrained(NAME)
    with pytest.raises(ImportError, match=r"pip install 'mmdit-cli\[hub\]'"):
        network[0].push_to_hub(NAME)


def test_a_bare_transformer_is_no_network(tmp_path):
    bare = mmdit.build({"depth": 1, "modalities": {"text": {"dim": 8}, "image": {"dim": 8}}, "heads": 1, "dim_head": 8})
    mmdit.save(bare, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match=r"holds a bare MMDiT, no MMDiTModel; mmdit.load reads it"):
        mmdit.MMDiTModel.from_pretrained(tmp_path / "bare.safetensors")


def test_a_card_says_what_is_known_and_one_that_was_written_on_is_not_lost(network, tmp_path):
    net, folder = network[0], tmp_path / "a" / "b"
    net.save_pretrained(folder)
    card = (folder / "README.md").read_text()
    assert "library_name: mmdit" in card and f"{sum(p.numel() for p in net.parameters()):,}" in card
    net.save_pretrained(folder)
    (folder / "README.md").write_text("My words.\n" + card)
    with pytest.raises(OSError, match=r"holds 'README.md', which would be lost"):
        net.save_pretrained(folder)
    assert (folder / "README.md").read_text().startswith("My words.")


@pytest.mark.slow
def test_the_command_line_reads_a_repository_in_a_process_of_its_own(published, tmp_path):
    environment = os.environ | {"HF_ENDPOINT": published.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": ""}
    command = [sys.executable, "-m", "mmdit_cli", "shape-check", "--weights", NAME, "--json"]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": str(root)}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["layout"] == "mmdit"
