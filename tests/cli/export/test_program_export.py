"""Programs (pt2, ONNX) that `export` writes, run without this package's classes, against the model itself."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import mmdit
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.export import program_export as programs
from mmdit_cli.export.preconditions import Export
from mmdit_cli.export.program import awake
from mmdit_cli.export.program_export import GRAPH, WEIGHTS, export_program
from mmdit_cli.request.tool_config import ToolConfig, as_tool_config
from tests.support.draws import drawn

BARE: dict[str, Any] = dict(depth=1, dim_cond=12, heads=2, dim_head=16)
PAIR = dict(variant="two_modality", modalities={"text": {"dim": 24}, "image": {"dim": 16}}, **BARE)
THREE = dict(
    variant="generalized", modalities={"text": {"dim": 24}, "video": {"dim": 16}, "audio": {"dim": 32}}, **BARE
)
IMAGE = {"kind": "patches", "channels": 3, "patch": 2, "max_size": 8, "positions": "sincos"}
WHOLE = dict(
    modalities={
        "text": {"dim": 16, "input": {"kind": "tokens", "vocabulary": 11, "max_length": 20}},
        "image": {"dim": 24, "input": IMAGE, "output": {"kind": "patches", "channels": 3}},
    },
    discard=["text"],
    timestep={"frequencies": 16},
    pooled={"dim": 6},
    **BARE,
)
ROTARY = dict(
    modalities={
        "text": {"dim": 32, "input": {"kind": "linear", "dim": 8}, "rotary": {"axes": [0], "after": "image"}},
        "image": {
            "dim": 32,
            "input": IMAGE | {"positions": "none"},
            "output": {"kind": "patches", "channels": 3},
            "rotary": {"axes": [0, 1], "centered": True},
        },
    },
    rotary={"axes": [8, 8]},
    single_stream={"depth": 1, "kind": "parallel"},
    timestep={"frequencies": 16},
    guidance={"frequencies": 16},
    **BARE,
)
VIDEO = ROTARY | dict(
    modalities={
        "text": {
            "dim": 32,
            "input": {"kind": "linear", "dim": 8},
            "refiner": {"depth": 1, "conditioning": "own", "modulation": {"parts": "gate"}},
            "inputs": {"glyphs": {"kind": "mlp", "dim": 6, "hidden": [5]}},
            "type_embedding": True,
        },
        "video": {
            "dim": 32,
            "input": {"kind": "patches", "channels": 3, "patch": [1, 2, 2], "positions": "none"},
            "output": {"kind": "patches", "channels": 3},
            "rotary": {"axes": [0, 1, 2]},
        },
    },
    rotary={"axes": [8, 4, 4]},
)
ONE_STREAM = BARE | dict(
    depth=0,
    modalities={
        "text": {
            "dim": 32,
            "input": {"kind": "linear", "dim": 8},
            "pad": {"multiple": 4},
            "refiner": {"depth": 1, "conditioning": "none"},
            "rotary": {"axes": [0]},
        },
        "image": {
            "dim": 32,
            "input": IMAGE | {"positions": "none"},
            "pad": {"multiple": 4},
            "output": {"kind": "patches", "channels": 3, "parts": "scale"},
            "rotary": {"axes": [1, 2], "after": "text", "after_axes": [0]},
        },
    },
    rotary={"axes": [8, 4, 4]},
    single_stream={"depth": 1, "kind": "sequential"},
    discard=["text"],
    norm={"kind": "rms", "weights": "plain", "place": "around"},
    modulation={"parts": "scale_gate", "gate": "tanh", "activation": "none"},
    attention={"kv_heads": 1},
    timestep={"frequencies": 16, "hidden": 8},
)
REFERENCES = ROTARY | dict(
    modalities={
        "text": {"dim": 32, "input": {"kind": "linear", "dim": 8}, "rotary": {"axes": [0], "after": "video"}},
        "video": VIDEO["modalities"]["video"]
        | {"clean_frames": 1, "references": {"axis": 0, "start": -1, "step": -1, "clean": True}},
    },
    rotary={"axes": [8, 4, 4]},
    timestep={"frequencies": 16, "second": "mean"},
    modulation={"table": True},
)
EACH = ONE_STREAM | dict(  # a modulation for each modality in every block
    modalities={
        "text": {"dim": 32, "input": {"kind": "linear", "dim": 8}},
        "image": {
            "dim": 32,
            "input": IMAGE | {"positions": "none"},
            "output": {"kind": "patches", "channels": 3},
            "rotary": {"axes": [0, 1], "span": 10},
        },
    },
    rotary={"axes": [8, 8]},
    single_stream={"depth": 1, "kind": "sequential", "modulation": "by_modality"},
    norm={},
    modulation={},
    pooled={"dim": 6, "frequencies": 8},
)
MODELS = {
    "standard": PAIR | {"qk_rmsnorm": True, "attention": {"out_gate": True}},
    "adaptive by token": THREE | {"attention": {"kind": "adaptive", "num_adaptive_weights": 2}},
    "adaptive by sample": PAIR | {"attention": {"kind": "adaptive", "num_adaptive_weights": 2, "gating": "sample"}},
    "whole": WHOLE,
    "rotary and single streams": ROTARY,
    "video, refined text and a further input": VIDEO,
    "one stream with pad tokens": ONE_STREAM,
    "a video with references": REFERENCES,
    "one stream, modulated by modality": EACH,
    "soft-clamped, with registers": PAIR | {"attention": {"softclamp": 5.0}, "register_tokens": 2},
    "hyper-connections": PAIR | {"residual": {"kind": "hyper_connections", "streams": 2}},
    "manifold": THREE | {"residual": {"kind": "manifold_hyper_connections", "streams": 2}},
    "padding-free": PAIR | {"varlen": True},
}
QUICK = {("pt2", "standard")}
CASES = [
    pytest.param(format, name, marks=() if (format, name) in QUICK else pytest.mark.slow)
    for format in ("pt2", "onnx")
    for name in MODELS
]


def config(name: str) -> ToolConfig:
    first, *others = MODELS[name]["modalities"]
    run = {"mask": {first: 0.5}, "tokens": {first: 8} | dict.fromkeys(others, 16)}
    if name == "a video with references":
        run |= {"frames": {"video": 4}, "references": {"video": 2}}
    return as_tool_config({"name": "small", "model": MODELS[name], "run": run})


def saved(name: str, folder: Path) -> tuple[ToolConfig, torch.nn.Module, Path]:
    """A model with every weight drawn, and its file."""
    given = config(name)
    net = drawn(mmdit.build(given.model)).float().eval()
    mmdit.save(net, folder / "weights.safetensors")
    return given, net, folder / "weights.safetensors"


def call_of(name: str, batch: int, lengths: tuple[int, ...]) -> dict[str, Any]:
    """Arguments written out by hand; the first modality's mask has gaps."""
    mask = torch.arange(lengths[0]) % 3 != torch.arange(batch)[:, None]
    cond = torch.randn(batch, 12)
    if name in ("whole", "rotary and single streams") or name.startswith("one stream"):
        model = MODELS[name]
        text = torch.randint(0, 11, (batch, lengths[0])) if name == "whole" else torch.randn(batch, lengths[0], 8)
        image = torch.randn(batch, 3, 2 * lengths[1], 2 * lengths[2])
        extra = {"pooled": torch.randn(batch, 6)} if "pooled" in model else {}
        extra |= {"guidance": torch.rand(batch)} if "guidance" in model else {}
        return dict(inputs=dict(text=text, image=image), masks=dict(text=mask), timestep=torch.rand(batch), **extra)
    if name == "video, refined text and a further input":
        inputs = dict(
            text=torch.randn(batch, lengths[0], 8),
            glyphs=torch.randn(batch, 4, 6),
            video=torch.randn(batch, 3, 3, 2 * lengths[1], 2 * lengths[2]),
        )
        return dict(inputs=inputs, masks=dict(text=mask), timestep=torch.rand(batch), guidance=torch.rand(batch))
    if name == "a video with references":
        inputs = dict(
            text=torch.randn(batch, lengths[0], 8), video=torch.randn(batch, 3, 3, *(2 * n for n in lengths[1:]))
        )
        times = dict(timestep=torch.rand(batch), second_timestep=torch.rand(batch), guidance=torch.rand(batch))
        references = [torch.randn(batch, 3, 1, *(2 * n for n in size)) for size in (lengths[1:], (3, 5))]
        return dict(inputs=inputs, masks=dict(text=mask), references=dict(video=references), **times)
    widths = [each["dim"] for each in MODELS[name]["modalities"].values()]
    tokens = [torch.randn(batch, length, dim) for length, dim in zip(lengths, widths, strict=False)]
    if MODELS[name].get("variant") == "two_modality":
        return dict(text_tokens=tokens[0], image_tokens=tokens[1], text_mask=mask, image_mask=None, time_cond=cond)
    return dict(modality_tokens=tuple(tokens), modality_masks=(mask, None, None), time_cond=cond)


def outputs(out: Any) -> list[torch.Tensor]:
    return [x for x in (out.values() if isinstance(out, dict) else out) if x is not None]


def load_pt2(path: Path) -> Any:
    return torch.export.load(path).module()


def run_pt2(program: Any, given: dict[str, Any]) -> list[torch.Tensor]:
    return outputs(program(**{key: x for key, x in given.items() if key != "image_mask"}))


def load_onnx(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(path)


def run_onnx(session: Any, given: dict[str, Any]) -> list[torch.Tensor]:
    """By the names that the README tells."""
    given = dict(given)
    flat = given.pop("inputs", {}) | {f"{name}_mask": mask for name, mask in given.pop("masks", {}).items()}
    for name, images in given.pop("references", {}).items():
        flat |= {f"{name}_reference_{index}": image for index, image in enumerate(images)}
    if "modality_tokens" in given:
        flat |= dict(zip(("text", "video", "audio"), given.pop("modality_tokens"), strict=True))
        flat["text_mask"] = given.pop("modality_masks")[0]
    flat |= {name.removesuffix("_tokens"): x for name, x in given.items() if x is not None}
    assert {each.name for each in session.get_inputs()} == set(flat)
    return [torch.from_numpy(x) for x in session.run(None, {name: x.numpy() for name, x in flat.items()})]


def sizes(path: Path) -> dict[str, list[str]]:
    """Those of a graph's inputs: numbers, and the names of those that may vary."""
    import onnxruntime

    taken = onnxruntime.InferenceSession(path).get_inputs()
    return {each.name: [str(x) for x in each.shape if not re.fullmatch(r"s\d+", str(x))] for each in taken}


@pytest.mark.parametrize(("format", "name"), CASES)
def test_a_program_computes_what_the_model_does_for_any_batch_and_sizes(format, name, tmp_path):
    given, net, weights = saved(name, tmp_path)
    out = tmp_path / f"program.{format}"
    result = export_program(given, Export(out=out, weights=weights), format=format)
    assert result.verified and result.max_abs_diff < 1e-4 and result.bytes == out.stat().st_size
    program, run = (load_pt2(out), run_pt2) if format == "pt2" else (load_onnx(out), run_onnx)
    if format == "onnx":
        assert sizes(out) == {key: [x for x in each if x != "any"] for key, each in result.inputs.items()}
    for batch, lengths in ((1, (9, 3, 5)), (4, (3, 6, 2)), (2, (17, 4, 8))):
        arguments = call_of(name, batch, lengths)
        with torch.inference_mode():
            wanted = outputs(net(**arguments))
        got = run(program, arguments)
        assert len(got) == len(wanted)
        if name == "padding-free":  # whose padding comes out as zeros, which a program, for it is padded, does not know
            got[0] = got[0] * arguments["text_mask"][..., None]
        for x, y in zip(got, wanted, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_picture_of_two_patches_at_most_has_a_fixed_size(tmp_path):
    """Between 1, which torch takes apart, and 2 there is nothing to vary."""
    small = as_tool_config(
        {
            "name": "small",
            "model": {
                "depth": 1,
                "modalities": {"image": {"dim": 8, "input": IMAGE | {"max_size": 2}}},
                "dim_cond": 8,
                "timestep": {"frequencies": 8},
                "heads": 1,
                "dim_head": 8,
            },
            "run": {"tokens": {"image": 4}},
        }
    )
    result = export_program(small, Export(out=tmp_path / "small.pt2"), format="pt2")
    assert result.verified and result.inputs["image"] == ["batch", "3", "4", "4"]


@pytest.mark.slow
def test_what_a_program_takes_and_gives_is_named(tmp_path):
    result = export_program(config("whole"), Export(out=tmp_path / "p.pt2"), format="pt2")
    assert result.inputs == {
        "text": ["batch", "text_tokens"],
        "image": ["batch", "3", "2*image_rows", "2*image_columns"],
        "text_mask": ["batch", "text_tokens"],
        "timestep": ["batch"],
        "pooled": ["batch", "6"],
    }
    assert result.outputs == ("image",)


@pytest.mark.slow
def test_a_pt2_file_holds_the_config_it_was_made_from_and_its_device(tmp_path):
    said = []
    export_program(config("standard"), Export(out=tmp_path / "p.pt2", seed=3, on_message=said.append), format="pt2")
    extra = {programs.EXTRA: ""}
    torch.export.load(tmp_path / "p.pt2", extra_files=extra)
    kept = json.loads(extra[programs.EXTRA])
    assert kept["source"] == "seed 3" and mmdit.build(json.loads(kept["mmdit_config"]))
    assert kept["device"] == "cpu" and "p.pt2 is a program for cpu; " in said[0]


@pytest.mark.slow
def test_an_onnx_folder_has_graph_and_weights_and_is_replaced_whole(tmp_path):
    import onnx

    given, out = config("standard"), tmp_path / "folder"
    result = export_program(given, Export(out=out), format="onnx")
    assert [Path(name).name for name in result.files] == [GRAPH, WEIGHTS]
    model = onnx.load(out / GRAPH, load_external_data=False)
    assert model.opset_import[0].version == programs.OPSET
    assert {each.key for each in model.metadata_props} >= {"mmdit_config", "mmdit_version", "source"}
    before = (out / WEIGHTS).read_bytes()
    with pytest.raises(UserError, match="exists; --force replaces it"):
        export_program(given, Export(out=out), format="onnx")
    export_program(given, Export(out=out, force=True, seed=1), format="onnx")
    assert (out / WEIGHTS).read_bytes() != before
    (out / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds 'notes\.txt'"):
        export_program(given, Export(out=out, force=True), format="onnx")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_program_that_computes_something_else_is_no_file(format, tmp_path, monkeypatch):
    out = tmp_path / f"p.{format}"
    out.write_bytes(b"old")
    trace = programs.trace

    def of_another(module, *rest):
        other = copy.deepcopy(module)
        with torch.no_grad():
            next(p for name, p in other.named_parameters() if "feedforward" in name).add_(0.1)
        return trace(other, *rest)

    monkeypatch.setattr(programs, "trace", of_another)
    with pytest.raises(CheckFailed, match="verification failed"):
        export_program(config("standard"), Export(out=out, force=True), format=format)
    assert out.read_bytes() == b"old" and list(tmp_path.iterdir()) == [out]


def test_closed_gates_are_opened_for_the_comparison_and_closed_again():
    net = mmdit.build(MODELS["standard"])
    before = {name: p.clone() for name, p in net.named_parameters()}
    closed = {name for name, p in before.items() if not p.any()}
    assert closed
    with awake(net) as any_asleep:
        assert any_asleep and all(p.any() for p in net.parameters())
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("onnx", dict(dtype=torch.bfloat16, out="p.onnx"), "no bf16"),
        ("onnx", dict(device=torch.device("cuda"), out="p.onnx"), "compared on the CPU"),
        ("pt2", dict(out="no/p.pt2"), "there is no folder no"),
        ("onnx", dict(out="no/p.onnx"), "there is no folder no"),
    ],
)
def test_a_program_that_can_not_be_made_is_refused_before_anything_is_built(
    format, options, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(programs, "fresh_or_read", None)
    with pytest.raises(UserError, match=message):
        export_program(config("standard"), Export(**options | {"out": Path(options["out"])}), format=format)


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(UserError, match=r"needs onnxruntime: pip install 'mmdit-cli\[onnx\]'"):
        export_program(config("standard"), Export(out=tmp_path / "p.onnx"), format="onnx")


def test_a_graph_too_large_for_one_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "ONE_FILE", 1000)
    with pytest.raises(UserError, match=r"holds 2 GB at most.*name a folder"):
        export_program(config("standard"), Export(out=tmp_path / "p.onnx"), format="onnx")
