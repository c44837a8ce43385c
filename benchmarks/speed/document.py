"""The document of the speed benchmark."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version

import torch

from benchmarks.published.settings import VERSION
from benchmarks.speed.goals import Line
from mmdit_cli.output.document import device_name

SECTIONS = {
    "dense": """One joint block, forward and train step (forward and backward). `products`: the bare matrix products of
ready inputs and one attention call; `products + gelu`: with the feedforwards' activation, which eager code must run
too.""",
    "later blocks": """A block of later networks at its own width, as a run of its network calls it: without a mask on
either side, but for HunyuanVideo, whose class always has one.""",
    "padding-free": """`varlen` against the padded run of the same network, and against diffusers' block, which takes no
mask and computes all of it. Outputs at valid positions are equal.""",
    "adaptive attention": """The published module computes the same (its heads summed, which it leaves apart). Peak:
bytes of tensors made during the call that are held at once.""",
    "hyper-connections": "A network of two blocks with four residual streams over the same network with one.",
    "modulations of a sampler": """`precompute_modulation` for all steps and then the steps, over computing them at each
step.""",
    "start-up": "The tool in fresh processes, beside the bare imports it can't do without.",
}


WHY_MISSED = {  # by section; shown where one of its goals is missed
    "dense": """What is missed beside the bare products: eager code must run the feedforwards' activation, which at 512
wide in bf16 takes 9 % of the products by itself (`products + gelu` has it), and norms, modulations and residuals
are passes over memory, which half precision shortens less than it does products. Compiled, both sides run inductor's
kernels, and where ours is slower it is by tens of µs a call.""",
    "adaptive attention": """The published module's time in training varies by a factor of 1.5 between builds, as its
interval shows; the goal lies within.""",
    "hyper-connections": """Reading four streams into a branch and writing its output back into all of them is eight
times the traffic of one residual addition, in tensors larger than a core's cache: what is missed is memory, not
arithmetic, and it weighs twice in bf16, where the products take a third of the time.""",
    "start-up": """`mmdit.load` maps the file, and reads no page of it before it is used. What is missed beside
`load_file`, for a file that is in the page cache already, are the 50 to 60 ms in which 24 blocks' modules are made.""",
}


def about() -> str:
    versions = [f"torch {torch.__version__}", f"diffusers {version('diffusers')}", f"mmdit {VERSION} (published)"]
    machine = f"{device_name('cpu')}, {torch.get_num_threads()} threads"
    return f"{machine}, {', '.join(versions)}, Python {platform.python_version()}"


def table(lines: Sequence[Line]) -> list[str]:
    """A name is given in the first of its rows alone."""
    text, name = ["| what | figure | goal | met |", "| --- | --- | --- | --- |"], ""
    for line in lines:
        met = "" if not line.goal else "yes" if line.met else "**no**"
        text.append(f"| {'' if line.name == name else line.name} | {line.figure} | {line.goal} | {met} |")
        name = line.name
    return text


def markdown(lines: Sequence[Line]) -> str:
    text = [
        "# How fast",
        "",
        f"Written by `python -m benchmarks.speed --write docs/reports/benchmarks.md` on {about()}.",
        "",
        "A figure is our time over that of the named side: the median of the rounds' ratios, its 95 % interval, and",
        "our median time. A goal of 1 is missed where the interval lies above 1.",
    ]
    for section, what in SECTIONS.items():
        rows = [line for line in lines if line.section == section]
        if not rows:
            continue
        text += ["", f"## {section.capitalize()}", "", what, "", *table(rows)]
        if section in WHY_MISSED and not all(line.met for line in rows):
            text += ["", WHY_MISSED[section]]
    return "\n".join(text) + "\n"
