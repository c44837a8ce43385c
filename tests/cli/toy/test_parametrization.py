"""muP: how each weight scales, against the spectral condition; and that the first steps move activations alike."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonschema import Draft202012Validator
from torch import nn

from mmdit.config import build
from mmdit.config.file import validate_mapping
from mmdit.config.shipped import shipped_configs
from mmdit.layers.modulation import ModulationTable
from mmdit.layers.positions import Learned2D
from mmdit.layers.projections import AdaptiveWeights
from mmdit.layers.registers import RegisterTokens
from mmdit.networks.embeddings import TokenEmbed
from mmdit.networks.pads import PadTokens
from mmdit.options import AttentionOptions, NetworkAttentionOptions, RefinerOptions, as_data, as_written
from mmdit_cli.commands.json_schemas import document_schema
from mmdit_cli.errors import UserError
from mmdit_cli.request.tool_config import RunConfig, ToolConfig
from mmdit_cli.request.train_config import MupConfig
from mmdit_cli.toy import coordinates
from mmdit_cli.toy.coordinates import coordinate_check
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.parametrization import Scaling, at_width, logits_scale, scalings
from mmdit_cli.toy.trainer import Trainer
from mmdit_cli.toy.training import train
from tests.support.marks import slow_but
from tests.support.shipped_networks import WIDTH, small
from tests.support.toy import CPU, same_bits, tiny, weights

BASE, WIDER = 16, 4  # the width of the tiny network, and how many times as wide the other is


def config(width: int, kind: str = "mup", **model: Any) -> ToolConfig:
    """The tiny network with biases, drawn so that nothing starts at zero."""
    data = as_data(tiny())
    data["model"] |= {"attention": {"bias": True}, "adaln": "identity", **model}
    base = validate_mapping(data, ToolConfig, source="test")
    settings = replace(base.train, parametrization=kind, mup=MupConfig(base_width=BASE), weight_decay=0.1)
    return replace(base, model=at_width(base.model, width), train=settings)


def trainer(of: ToolConfig) -> Trainer:
    return Trainer(of, world_of(of), device=CPU, dtype=torch.float32, seed=0)


def rates(of: Trainer) -> dict[int, tuple[float, float]]:
    """Learning rate and weight decay of each weight, as the optimizer has them."""
    return {id(p): (g["initial_lr"], g["weight_decay"]) for g in of.optimizer.param_groups for p in g["params"]}


@pytest.mark.parametrize("model", [{}, {"attention": {"kind": "adaptive", "num_adaptive_weights": 2, "bias": True}}])
def test_weights_and_their_updates_keep_the_spectral_condition(model: dict[str, Any]) -> None:
    """`|W| ~ |dW| ~ sqrt(out / in)` (Yang, Simon and Bernstein 2023, arXiv 2310.17813): of a random matrix the norm is
    its deviation times the root of the larger side, and of an update by Adam, whose entries are the learning rate and
    whose rank is low, the rate times the root of both. Entries of vectors stay as they are."""
    narrow, wide = (trainer(config(width, **model)) for width in (BASE, BASE * WIDER))
    matrices = {
        f"{name}.weight": module
        for name, module in narrow.model.named_modules()
        if isinstance(module, (nn.Linear, AdaptiveWeights))
    }
    assert len(matrices) > 10
    found = dict(wide.model.named_parameters())
    for name, own in narrow.model.named_parameters():
        (rate, decay), (wide_rate, wide_decay) = rates(narrow)[id(own)], rates(wide)[id(found[name])]
        assert wide_rate * wide_decay == pytest.approx(rate * decay)
        if name not in matrices:
            assert wide_rate == rate, name
            continue
        sizes = [p.shape[-2:] for p in (own, found[name])]
        targets = [math.sqrt(out / into) for out, into in sizes]
        updates = [lr * math.sqrt(out * into) for lr, (out, into) in zip((rate, wide_rate), sizes, strict=True)]
        assert updates[1] / updates[0] == pytest.approx(targets[1] / targets[0]), name
        deviations = [p.std().item() for p in (own, found[name])]
        if min(deviations):  # modulations start at zero
            grown = [out != base for out, base in zip(sizes[1], sizes[0], strict=True)]
            sides = [size[1 if grown[1] and not grown[0] else 0] for size in sizes]
            norms = [d * math.sqrt(side) for d, side in zip(deviations, sides, strict=True)]
            assert norms[1] / norms[0] == pytest.approx(targets[1] / targets[0], rel=0.25), name


TABLES = (nn.Embedding, TokenEmbed, RegisterTokens, PadTokens, Learned2D, ModulationTable)  # looked up, or added
SUITED = {"lumina-image-2.0": ["model.attention.kv_heads=2"], "ideogram-4": ["model.rotary.axes=[8, 4, 4]"]}


@pytest.mark.parametrize("name", slow_but(shipped_configs(), "toy-scenes", "flux.3-klein-base"))
def test_every_weight_of_every_network_is_scaled_by_how_its_own_sides_grow(name: str) -> None:
    """Table 3 of muP (Yang et al. 2022), by the shapes alone of a network and of one half as wide."""
    model = small(name, "model.depth=3", "model.heads=4", *SUITED.get(name, ())).model
    settings = replace(tiny().train, parametrization="mup", mup=MupConfig(base_width=WIDTH // 2))
    found = scalings(replace(tiny(), model=model, run=RunConfig(), train=settings))
    with torch.device("meta"):
        own, narrow = build(model), build(at_width(model, WIDTH // 2))
    base = dict(narrow.named_parameters())
    assert found.keys() == base.keys() == dict(own.named_parameters()).keys()
    owners = {
        f"{path}.{key}".strip("."): module
        for path, module in own.named_modules()
        for key, _ in module.named_parameters(recurse=False)
    }
    for key, p in own.named_parameters():
        grown = [big / little for big, little in zip(p.shape, base[key].shape, strict=True)]
        assert set(grown) <= {1.0, 2.0}, (key, p.shape, base[key].shape)
        into, out = (grown[-1], grown[-2]) if p.ndim > 1 and not isinstance(owners[key], TABLES) else (1.0, 1.0)
        rate = 1 / into
        if key.endswith(".bias"):  # drawn by its matrix's fan-in
            into = max(1.0, 1 / found[key.removesuffix("bias") + "weight"].rate)
            assert found[key] == Scaling(init=into**0.5), key
            continue
        init = into**-0.5 if out == 1 and into > 1 else 1.0
        assert found[key] == Scaling(init, rate, 1 / rate), (key, p.shape)


def test_biases_stay_as_large_as_at_the_base_width() -> None:
    narrow, wide = (trainer(config(width)).model for width in (BASE, BASE * WIDER))
    name = "transformer.blocks.0.feedforwards.1.proj_in.bias"
    sizes = [dict(net.named_parameters())[name].abs().max().item() for net in (narrow, wide)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)
    plain = dict(trainer(config(BASE * WIDER, "standard")).model.named_parameters())[name].abs().max().item()
    assert plain == pytest.approx(sizes[0] / 2, rel=0.15)


def test_at_the_base_width_both_are_one_to_the_bit() -> None:
    nets = [trainer(config(BASE, kind)) for kind in ("standard", "mup")]
    for net in nets:
        for _ in range(2):
            net.step()
    assert same_bits(*(net.model.state_dict() for net in nets))
    wide = [trainer(config(BASE * WIDER, kind)) for kind in ("standard", "mup")]
    assert wide[0].model.state_dict().keys() == wide[1].model.state_dict().keys()
    assert wide[0].step()["learning_rate"] == wide[1].step()["learning_rate"]


def test_logits_of_wider_heads_are_to_be_scaled() -> None:
    of = config(BASE)
    settings = replace(of.train, mup=MupConfig(base_width=BASE, base_dim_head=8))
    wide = replace(of, model=replace(of.model, dim_head=32), train=settings)
    with pytest.raises(UserError, match=r"set model\.attention\.scale=0\.0883883, got 0\.176777"):
        scalings(wide)
    attention = NetworkAttentionOptions(scale=logits_scale(32, 8), bias=True)
    assert scalings(replace(wide, model=replace(wide.model, attention=attention)))


def test_refiners_have_as_many_more_heads_and_logits_of_their_own() -> None:
    of = config(BASE * WIDER)
    refiner = RefinerOptions(depth=1, heads=12, attention=AttentionOptions(kv_heads=4), dim_head=4)
    image = replace(of.model.modalities["image"], refiner=refiner)
    wide = replace(of, model=replace(of.model, modalities={**of.model.modalities, "image": image}))
    narrow = at_width(wide.model, BASE).modalities["image"].refiner
    assert narrow is not None and narrow.attention is not None
    assert (narrow.heads, narrow.dim_head, narrow.attention.kv_heads) == (3, 4, 1)
    found = {name: each for name, each in scalings(wide).items() if name.startswith("refiners.image.")}
    (qkv,) = (each for name, each in found.items() if "qkv" in name and name.endswith(".weight"))
    assert qkv == Scaling(1.0, 1 / WIDER, WIDER)
    widening = replace(image, refiner=replace(refiner, dim_head=None))  # as the joint blocks' are
    model = replace(of.model, dim_head=32, heads=2, modalities={**of.model.modalities, "image": widening})
    scaled = replace(model, attention=NetworkAttentionOptions(scale=logits_scale(32, 8), bias=True))
    settings = replace(of.train, mup=MupConfig(base_width=BASE, base_dim_head=8))
    with pytest.raises(UserError, match=r"set model\.modalities\.image\.refiner\.attention\.scale=0\.0883883, got"):
        scalings(replace(of, model=scaled, train=settings))


def test_a_refiner_that_takes_heads_over_is_scaled_as_one_that_names_them() -> None:
    of = config(BASE * WIDER).model
    attention = NetworkAttentionOptions(kv_heads=2, bias=True)
    named = RefinerOptions(depth=1, heads=4, dim_head=4, attention=AttentionOptions(kv_heads=2, bias=True))
    for refiner in (named, replace(named, heads=None), replace(named, heads=None, attention=None)):
        modalities = {**of.modalities, "image": replace(of.modalities["image"], refiner=refiner)}
        wide = replace(of, heads=4, dim_head=16, attention=attention, modalities=modalities)
        narrow = at_width(wide, BASE * WIDER // 2, 8).refiner("image")  # half as wide, with half the features of a head
        assert (narrow.head_sizes, narrow.attention.kv_heads) == ((2, 4), 1), refiner


@pytest.mark.parametrize(
    ("base", "message"), [(10, "can't be made: .* multiple of 4, got 10"), (12, "no whole number of heads")]
)
def test_a_base_that_cannot_be_is_refused(base: int, message: str) -> None:
    of = config(BASE)
    with pytest.raises(UserError, match=message):
        trainer(replace(of, train=replace(of.train, mup=MupConfig(base_width=base))))


@pytest.mark.slow
@pytest.mark.usefixtures("bare_training")
def test_a_run_that_is_stopped_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    of = config(BASE * WIDER)
    whole = train(of, device=CPU, run_dir=tmp_path / "whole")

    def stop(now: int, *rest: Any) -> None:
        if now == 4:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(of, device=CPU, run_dir=tmp_path / "run", on_progress=stop)
    resumed = train(of, device=CPU, run_dir=tmp_path / "run", resume=True)
    assert whole is not None and resumed is not None and same_bits(weights(whole), weights(resumed))


# ------------------------------------------------------------------------------------------------------ the first steps


def test_under_mup_the_first_steps_move_activations_alike_at_any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TIMES", (1, 4)), ("STEPS", 3), ("SEEDS", 1)):
        monkeypatch.setattr(coordinates, name, value)
    of = config(BASE)
    found = coordinate_check(replace(of, train=replace(of.train, batch_size=16)), CPU)
    exponents = {(each.component, each.parametrization): each.exponent for each in found.growth}
    for component in ("conditioning", "modulation", "feedforward", "out projection"):
        assert abs(exponents[component, "mup"]) < 0.25, (component, exponents)
        assert exponents[component, "standard"] > exponents[component, "mup"] + 0.25, (component, exponents)
    assert found.widths == [16, 64] and len(found.moved) == 2 * 2 * 3 * 8


@pytest.mark.slow
def test_wider_heads_are_checked_with_scaled_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TIMES", (1, 4)), ("STEPS", 3), ("SEEDS", 2)):
        monkeypatch.setattr(coordinates, name, value)
    of = config(BASE)
    settings = replace(of.train, mup=MupConfig(base_width=BASE, base_dim_head=8))
    found = coordinate_check(replace(of, train=settings), CPU)
    exponents = {each.component: each.exponent for each in found.growth if each.parametrization == "mup"}
    for component in ("qkv projection", "attention", "out projection", "feedforward"):
        assert abs(exponents[component]) < 0.3, exponents


def test_the_command_checks_draws_and_documents(run_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TIMES", (1, 2)), ("STEPS", 1), ("SEEDS", 1)):
        monkeypatch.setattr(coordinates, name, value)
    content = as_written(config(BASE)) | {"name": "tiny"}
    Path("c.yaml").write_text(yaml.safe_dump(content))
    done = run_command("train-toy", "-c", "c.yaml", "--coordinate-check", "--plot", "c.svg", "--report", "r.json")
    assert done.returncode == 0, done.stderr
    assert "tiny: coordinate check" in done.stdout and "width ^ " in done.stdout and "muP" in Path("c.svg").read_text()
    document = json.loads(Path("r.json").read_text())
    Draft202012Validator(document_schema("train-toy")).validate(document)
    assert document["results"][0]["widths"] == [16, 32]
    refused = run_command("train-toy", "-c", "c.yaml", "--coordinate-check", "--seeds", "3")
    assert refused.returncode == 2 and "leave out --seeds" in refused.stderr
