"""Small versions of commands that would take minutes, a GPU, an official file or the network.

Nothing is left out: every command is answered by a smaller one of the same kind.

- what measures or trains runs on small sizes and for few steps; `--device cuda` becomes `cpu`;
- official files are stand-ins in their layout, of the same network with fewer and narrower blocks;
- the reports' scripts and refresh.py are asked for their options alone;
- pip resolves the project's own extras, and installs nothing.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.quantized_files import low_rank, plain, save_gguf

IMAGE_AND_TEXT = ["model.modalities.text.dim=64", "model.modalities.image.dim=64", "model.dim_cond=16"]
FEW_TOKENS = ["run.tokens.text=8", "run.tokens.image=16"]
SD3 = [*IMAGE_AND_TEXT, *FEW_TOKENS, "model.depth=2", "model.heads=1"]
NARROW = [*IMAGE_AND_TEXT, *FEW_TOKENS, "model.dim_joint_attn=64"]
SMALL = {  # of a config: the values that make it so
    "two-modality": NARROW,
    "adaptive": NARROW,
    "sd3-medium": SD3,
    "sd3.5-medium": [*SD3, "model.attention.dual=[0]"],
    "flux.1-dev": [  # as wide as its heads, or diffusers has no such network
        *("model.modalities.*.dim=128", "model.dim_cond=128", *FEW_TOKENS),
        *("model.depth=2", "model.single_stream.depth=2", "model.heads=1"),
    ],
}
OFFICIAL = {
    "sd3.5_medium.safetensors": ("sd3.5-medium", "stability"),
    **dict.fromkeys(
        ("flux1-dev.safetensors", "flux1-dev-fp8.safetensors", "flux1-dev-Q8_0.gguf", "style.safetensors"),
        ("flux.1-dev", "flux"),
    ),
}
TOY = [
    *("train.batch_size=4", "train.warmup_steps=1"),
    *("train.evaluation_samples=6", "train.evaluate_every=0", "train.sampler.steps=1"),
]
LARGE = re.compile(r"^mmdit profile -c sd3.5-large .*--estimate")  # what it prints, the slow test holds
SECONDS = re.compile(  # what even the small version takes, so that only the slow test runs it
    r"--compile|train.compile|--cold|^mmdit plan|--format (pt2|onnx)|profile .*--sweep|-c flux.1-dev -c|--seeds|digits|"
    r"--coordinate-check|"
    r"^torchrun|^make|^python -m (venv|tests)|^\. |^pip|^pytest"
)


def small(line: str) -> str:
    """The small version of a command line."""
    words = shlex.split(line)
    if "--write" in words:
        return shlex.join([*words[: words.index("--write")], "--help"])
    if words[:2] == ["python", "docs/refresh.py"]:
        return shlex.join([*words[:2], "no such command"])
    if words[0] == "pip":
        return shlex.join([*words, "--dry-run", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"])
    if words[0] == "make":
        return shlex.join([*words, "--dry-run"])
    if words[0] == "pytest":
        return shlex.join(
            [*words, "--collect-only", "-q", "tests/project/test_readme.py", "tests/project/test_wheel.py"]
        )
    if "train-toy" in words:
        if "train.steps=300,600,1200" in words:
            words[words.index("train.steps=300,600,1200")] = "train.steps=1,2,4"
        elif "--steps" not in words and "--coordinate-check" not in words:
            words += ["--steps", "600"]
        if "--steps" in words:
            place = words.index("--steps") + 1
            words[place] = str(int(words[place]) // 300)
        return shlex.join([*("2" if word == "3" else word for word in words), *_sets(TOY)])
    if LARGE.search(line):
        return shlex.join([*("4GB" if word == "80GB" else word for word in words), *_sets(["model.depth=1"])])
    measures = words[1] == "profile" and "--estimate" not in words
    if words[0] == "mmdit" and (measures or "--weights" in words):
        words = ["cpu" if word == "cuda" else "1000%" if word == "5%" else word for word in words]
        words = [re.sub(r"(tokens\.\w+)=\d+,\d+,\d+$", r"\1=4,8,16", word) for word in words]
        names = {Path(word).name.removesuffix(".yaml") for word in words}
        words += [
            word for name in sorted(names & SMALL.keys()) if not _is_made_large(words) for word in _sets(SMALL[name])
        ]
        return shlex.join([*words, *(["--max-seconds", "0"] if measures else [])])
    return line


def _is_made_large(words: list[str]) -> bool:
    """Whether it reads a file that another command of its page wrote at full size."""
    return "two-modality.safetensors" in words


def _sets(values: list[str]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def write_stand_in(path: Path) -> None:
    """A small file in the layout of the official one of that name."""
    from safetensors.torch import save_file

    import mmdit
    from mmdit.layouts import to_layout
    from mmdit_cli.request.tool_config import load_tool_config

    name, layout = OFFICIAL[path.name]
    config = load_tool_config(ROOT / "configs" / f"{name}.yaml", SMALL[name])
    theirs = {
        key: x.contiguous() for key, x in to_layout(mmdit.build(config).state_dict(), config.model, layout).items()
    }
    if path.suffix == ".gguf":
        save_gguf(theirs, path)
    else:
        made = low_rank if path.name.startswith("style") else plain if "fp8" in path.name else dict
        save_file(made(theirs), path)
