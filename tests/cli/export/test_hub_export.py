"""Exports of weights that are named by a repository of the Hub, and what the card beside an export says."""

from __future__ import annotations

import json
import re

import pytest
import torch

import mmdit
from mmdit.weights.writer import digest
from mmdit_cli.export.layout_change import convert_weights
from mmdit_cli.export.preconditions import Export
from tests.support.hub_server import serving
from tests.support.shipped_networks import small, small_network

NAME = "org/small"


@pytest.fixture
def published(monkeypatch, tmp_path):
    with serving(monkeypatch, tmp_path / "cache") as server:
        bare = {"depth": 1, "modalities": {"text": {"dim": 8}, "image": {"dim": 8}}, "heads": 1, "dim_head": 8}
        mmdit.save(mmdit.build(bare), tmp_path / "made", max_shard_size="5GB")
        server.put(NAME, tmp_path / "made")
        config = json.loads((tmp_path / "made" / "config.json").read_text())
        (tmp_path / "c.json").write_text(json.dumps({"model": config.get("model", config)}))
        yield server


def test_export_asks_the_hub_once_it_can_write_and_takes_the_cache_where_nobody_answers(
    published, run_command, tmp_path
):
    def export(out, *more, weights=NAME):
        return run_command("export", "-c", "c.json", "--weights", weights, "--out", out, *more)

    (tmp_path / "old.safetensors").write_bytes(b"")
    done = export("old.safetensors")
    assert done.returncode == 2 and "exists; --force replaces it" in done.stderr
    done = export("x.safetensors", weights=f"./{NAME}")
    assert done.returncode == 2 and "no such file" in done.stderr
    assert published.asked == []
    done = export("folder", "--max-shard-size", "5GB")
    assert done.returncode == 0, done.stderr
    commit = published.commit(NAME)[:12]
    assert f"--weights {NAME}: {NAME}@{commit}" in done.stderr and "from the cache" not in done.stderr
    assert f"{NAME}@{commit}" in (tmp_path / "folder" / "README.md").read_text()
    published.stop()
    done = export("second.safetensors")
    assert done.returncode == 0, done.stderr
    assert f"{NAME}@{commit}, from the cache, as the Hub was not reached" in done.stderr


@pytest.mark.slow
def test_the_card_of_another_layout_opens_the_folder_and_keeps_the_users_folders_to_himself(tmp_path, monkeypatch):
    config, (network, _) = small("flux.1-schnell"), small_network("flux.1-schnell")
    (tmp_path / "private").mkdir()
    mmdit.save(network, tmp_path / "private" / "mine.safetensors")
    asked = Export(out=tmp_path / "FOLDER", weights=tmp_path / "private" / "mine.safetensors", max_shard_size="5GB")
    convert_weights(config, asked, source="mmdit", target="flux")
    card = (tmp_path / "FOLDER" / "README.md").read_text()
    assert "| mine.safetensors |" in card and "private" not in card
    python, yaml = (re.search(rf"```{kind}\n(.*?)```", card, re.DOTALL)[1] for kind in ("python", "yaml"))
    (tmp_path / "config.yaml").write_text(yaml)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(python, names)
    state = network.state_dict()
    assert {k: digest(v) for k, v in names["model"].state_dict().items()} == {k: digest(v) for k, v in state.items()}
    assert any(torch.any(v) for v in state.values())
