"""The tables of the published families: equality with diffusers, and the sizes of the full networks."""

from __future__ import annotations

from importlib.metadata import version

import torch

import mmdit
from benchmarks.families.comparison import gradient_errors, output_error
from benchmarks.families.diffusers_networks import Family
from benchmarks.paths import CONFIGS
from mmdit.options import ModelOptions, NormOptions, PatchInput
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.request.tool_config import load_tool_config

OUTPUT, GRADIENT = 1e-5, 1e-4
PIXELS = 1024  # a side of the picture
# a side of the square of it that one token stands for
PATCH = {"hunyuan-image-2.1": 32, "hunyuan-image-2.1-distilled": 32}
Rows = list[list[str]]

INTRODUCTION = """# The published networks

Written by `python -m benchmarks.families --write docs/reports/families.md`: the sizes come from the configs
in `configs/`, the differences from a run against diffusers {diffusers} with torch {torch}.

## Equal to diffusers

A small network of each family, with every weight drawn away from its initial value, against diffusers' class of it with
the same weights: several batch sizes, image shapes, text lengths, timesteps and guidance scales, in float32. The
largest relative difference (Euclidean norm) of the outputs must be under 1e-5, that of any weight's or input's gradient
under 1e-4. `tests/benchmarks/test_families.py` also compares block by block, in bfloat16, and over 8 sampling steps.
`video-to-audio` and `mmaudio-small-16k` are MMAudio's large_44k_v2 and small_16k, which diffusers has not: they are
held against {sound}.
"""
AUTHORS = "its authors' own class (hkchengrex/MMAudio at 974010a; `--mmaudio PATH_OF_A_CLONE`)"
STATED = "its formulas, stated again in `benchmarks/families/mmaudio.py`"
SIZES = """
## Sizes

Forward FLOPs of one picture of 1024 x 1024 (of a network for video, layers or sound, of the config's) and the text
tokens of the config's `run` section (2 FLOPs a multiply-add; matrix products and attention). `mmdit flops -c NAME`
shows them by component; AuraFlow's row, with its parameters, is that of
`mmdit flops -c auraflow --set model.modalities.image.input.max_size=96 --set run.tokens.image=4096`.
"""
MISSING = """
## What is not exact

- MMAudio aligns video and audio by the ratio of their tokens. In `configs/video-to-audio.yaml` that is the number of
  its 8 seconds, 345 over 64; for another duration set `model.modalities.video.rotary.scale` to the ratio there.
- AuraFlow's checkpoints come with position tables of several sizes; the published count above is that of diffusers'
  default, 32 x 32, which ends at 512 x 512 pixels; the sizes are those of the table for 1024 x 1024, 96 x 96.
- There is no config of LTX-2.
"""


def equality(family: Family) -> tuple[list[str], bool]:
    """A row of the table, and whether all of it is as it should be."""
    with torch.device("meta"):
        ours, theirs = mmdit.build(CONFIGS / f"{family.config}.yaml"), family.theirs(**family.published)
    built, counted = (sum(p.numel() for p in net.parameters()) for net in (ours, theirs))
    output, gradient = output_error(family), max(gradient_errors(family).values())
    good = built == counted == family.parameters and output < OUTPUT and gradient < GRADIENT
    row = [family.config, f"{family.parameters:,}", f"{built:,}", f"{output:.1e}", f"{gradient:.1e}"]
    return [*row, "equal" if good else "DIFFERENT"], good


def size(name: str) -> list[str]:
    """A full network's row."""
    side = PIXELS // PATCH.get(name, 16)
    overrides = [f"run.tokens.image={side * side}"]
    shipped = load_tool_config(CONFIGS / f"{name}.yaml")
    if shipped.model.names[-1] != "image" or shipped.run.frames:
        overrides = []
    if name == "auraflow":  # its default table of positions ends at half of that picture
        overrides.append("model.modalities.image.input.max_size=96")
    config = load_tool_config(CONFIGS / f"{name}.yaml", overrides)
    counts, model = count_flops(config), config.model
    single = model.single_stream
    return [
        name,
        f"{model.depth} joint" + (f" + {single.depth} single" if single else ""),
        f"{next(iter(model.modalities.values())).dim:,}",
        f"{model.heads} x {model.dim_head}",
        f"{counts.parameters:,}",
        f"{counts.forward_flops / 1e12:.1f} TFLOP",
        f"{2 * counts.parameters / 1e9:.1f} GB",
        ", ".join(options(model)),
    ]


def options(model: ModelOptions) -> list[str]:
    """What a network has that the plain block of the paper has not, in the words of the config."""
    used = []
    image = model.modalities[model.names[-1]].input
    if isinstance(image, PatchInput) and image.positions != "none":
        used.append(f"{image.positions} positions {image.max_size} x {image.max_size}")
    if model.rotary:
        used.append(f"rotary {'+'.join(map(str, model.rotary.axes))}")
    if model.qk_rmsnorm:
        used.append("qk_rmsnorm")
    if model.attention.qk_layernorm:
        used.append("qk_layernorm")
    if model.attention.dual:
        used.append(f"dual attention in {len(model.attention.dual)} blocks")
    if model.single_stream:
        used.append(f"{model.single_stream.kind} single_stream")
    if model.single_stream and model.single_stream.modulation == "by_modality":
        used.append("modulation by modality")
    if model.attention.out_gate:
        used.append(f"output gates{' per head' if model.attention.out_gate == 'per_head' else ''}")
    if model.residual.kind != "plain":
        used.append(f"{model.residual.kind} residual")
    for name, modality in model.modalities.items():
        if modality.refiner:
            used.append(f"{name} refiner of {modality.refiner.depth} blocks")
        if modality.static:
            used.append(f"static {name}")
        if modality.pad:
            used.append(f"{name} pad tokens")
    if model.norm != NormOptions():
        used.append(f"{model.norm.kind} norms {model.norm.place} the branches")
    if model.attention.kv_heads:
        used.append(f"{model.attention.kv_heads} kv_heads")
    if model.modulation.gate != "plain":
        used.append(f"{model.modulation.gate} gates")
    if model.modalities["text"].inputs:
        used.append(f"further inputs {', '.join(model.modalities['text'].inputs)}")
    if model.modulation.shared:
        used.append("shared modulation")
    if model.modulation.table:
        used.append("one modulation and a table a block")
    if model.timestep and model.timestep.second:
        used.append("second timestep")
    if not model.modulation.bias:
        used.append("no modulation bias")
    if model.register_tokens:
        used.append("register_tokens")
    used += [name for name in ("guidance", "pooled", "class_labels") if getattr(model, name)]
    if getattr(model.modalities["text"].input, "norm", "none") != "none":
        used.append("text input norm")
    if kernels := model.feedforward.kernel if isinstance(model.feedforward.kernel, dict) else {}:
        used.append(f"convolutions over {max(kernels.values())} tokens of {' and '.join(kernels)}")
    used += [f"conditions {', '.join(m.conditions)} of {name}" for name, m in model.modalities.items() if m.conditions]
    return [*used, f"feedforward {model.feedforward.kind}"]


COLUMNS = ["network", "published", "built", "outputs", "gradients", ""]
SIZE_COLUMNS = ["network", "blocks", "width", "heads", "parameters", "forward, 1024 px", "weights, bf16", "options"]


def markdown(columns: list[str], rows: Rows) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def document(rows: Rows, sizes: Rows, of_authors: bool) -> str:
    versions = dict(diffusers=version("diffusers"), torch=torch.__version__.partition("+")[0])
    text = INTRODUCTION.format(sound=AUTHORS if of_authors else STATED, **versions)
    return text + "\n" + markdown(COLUMNS, rows) + SIZES + "\n" + markdown(SIZE_COLUMNS, sizes) + MISSING
