"""This library beside the published `mmdit` 0.3.0, in the settings where that one is right: outputs and gradients.

Theirs draws every parameter away from its initial value, runs, and saves what it did; here the parameters are renamed
to ours, and outputs and gradients compared, in float32.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import mmdit
from benchmarks.published.renaming import (
    adaptive_attention,
    block,
    general_block,
    joint_attention,
    transformer_config,
)
from benchmarks.published.settings import CASES, LAYER_NORM_EPS, Case, State, below, run
from benchmarks.published.their_process import started
from mmdit import mmdit_pytorch as two
from mmdit.adaptive_attention import AdaptiveAttention
from mmdit.layers.norms import MultiHeadRMSNorm, RMSNorm
from mmdit.layouts.layout import from_layout
from mmdit.networks import transformer as general

OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4


def build_ours(case: Case, theirs: State) -> Any:
    options = case.options
    eps: dict[str, Any] = dict(norm_eps=LAYER_NORM_EPS)
    widths = options.get("dim_modalities", ())

    def whole() -> tuple[Any, State]:
        config = transformer_config(options)
        return mmdit.build(config), from_layout(theirs, config, "lucidrains")

    build: dict[str, Callable[[], tuple[Any, State]]] = {
        "joint": lambda: (two.JointAttention(**options), joint_attention(theirs)),
        "adaptive": lambda: (
            AdaptiveAttention(**options),
            adaptive_attention(theirs, options["heads"], options.get("num_adaptive_weights", 1)),
        ),
        "block": lambda: (two.MMDiTBlock(**options, **eps), block(theirs)),
        "transformer": whole,
        "general_block": lambda: (general.MMDiTBlock(**options, **eps), general_block(theirs, widths)),
        "general_transformer": whole,
    }
    net, state = build[case.kind]()
    net.load_state_dict(state)
    for module in net.modules():
        if isinstance(module, (RMSNorm, MultiHeadRMSNorm)):
            module.eps = 0.0
    return net


def differences(case: Case, file: Path) -> tuple[float, float]:
    """Of outputs and of gradients: the largest difference of a tensor, over the largest value of that tensor."""
    saved = load_file(file)
    net = build_ours(case, below(saved, "state."))

    def largest(got: State, wanted: State) -> float:
        if got.keys() != wanted.keys():
            raise SystemExit(f"{case.name}: {sorted(wanted)} wanted, got {sorted(got)}")
        shares = [(got[name] - x).abs().max() / x.abs().max() for name, x in wanted.items()]
        return torch.stack(shares).max().item()  # torch's maximum does not pass over NaN, as Python's does

    out, gradients = run(case, net, below(saved, "given."))
    return largest(out, below(saved, "out.")), largest(gradients, below(saved, "gradient."))


def all_differences(python: Path) -> dict[str, tuple[float, float]]:
    """Of every case, by its name; theirs runs in the environment of `python`.

    Raises:
        subprocess.CalledProcessError: it could not be run.
    """
    with tempfile.TemporaryDirectory() as name:
        process = started(python, "--save", name)
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, process.args)
        return {case.name: differences(case, Path(name) / f"{i}.safetensors") for i, case in enumerate(CASES)}
