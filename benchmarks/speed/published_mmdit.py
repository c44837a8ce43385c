"""Compare this library with the published `mmdit` 0.3.0, in the settings where that one is right.

    python benchmarks/published_mmdit.py

Both packages are imported as `mmdit`, so theirs runs in a subprocess, in an environment of its own (made on the first
run under --environment; --python names one that exists). It draws every parameter away from its initial value, runs,
and saves parameters, inputs, outputs and the gradients of the inputs as safetensors. Here the parameters are renamed to
ours, and outputs and gradients compared, in float32. Exit code: 0 where every difference is within the tolerance, 1
where one is not, 2 where theirs can't be run.

What differs by convention: their modulation multiplies by gamma, ours by 1 + scale (so scale = gamma - 1); their layer
norms have an eps of 1e-5 and their RMS norms one of 0; their `AdaptiveAttention` returns its heads apart (its known
fault), so they are summed before the comparison.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = "0.3.0"
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (f"mmdit=={VERSION}", "torch", "numpy", "safetensors")  # constraints.txt decides the other versions
LAYER_NORM_EPS, BATCH, COND = 1e-5, 2, 24
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
State = dict[str, Any]  # name -> tensor


@dataclass(frozen=True)
class Case:
    """One setting; `options` go to both constructors as they are."""

    name: str
    kind: str
    options: dict[str, Any]
    masked: bool = False
    call: dict[str, Any] = field(default_factory=dict)


HEADS: dict[str, Any] = dict(heads=4, dim_head=16)
TWO = dict(dim_text=48, dim_image=32, **HEADS)
THREE = dict(dim_modalities=(48, 32, 40), **HEADS)
JOINT = dict(dim_inputs=(48, 32, 40), **HEADS)
ADAPTIVE = dict(dim=48, **HEADS)
TWO_COND, THREE_COND = (sizes | dict(dim_cond=COND) for sizes in (TWO, THREE))
TWO_DEEP, THREE_DEEP = (sizes | dict(depth=3) for sizes in (TWO_COND, THREE_COND))
ONE_STREAM, STREAMS = dict(num_residual_streams=1), dict(num_residual_streams=4)
CLAMP = dict(softclamp=True, softclamp_value=2.0)
SWIGLU = dict(ff_kwargs=dict(glu=True, swish=True, mult=2))
SKIPPED = dict(should_skip_last_feedforward=True)  # the default on their side
FED, UNFED = (dict(skip_feedforward_text_tokens=skip) for skip in (False, True))

CASES = (
    Case("JointAttention", "joint", JOINT),
    Case("JointAttention, masks", "joint", JOINT, masked=True),
    Case("JointAttention, qk_rmsnorm, masks", "joint", JOINT | dict(qk_rmsnorm=True), masked=True),
    Case("JointAttention, softclamp, masks", "joint", JOINT | CLAMP, masked=True),
    Case("AdaptiveAttention, 1 weight, mask", "adaptive", ADAPTIVE, masked=True),
    Case("AdaptiveAttention, 4 weights, mask", "adaptive", ADAPTIVE | dict(num_adaptive_weights=4), masked=True),
    Case("two-modality block", "block", TWO, call=FED),
    Case("two-modality block, conditioned, mask", "block", TWO_COND, masked=True, call=FED),
    Case("two-modality block, swiglu", "block", TWO_COND | SWIGLU, call=FED),
    Case("two-modality block, text feedforward skipped", "block", TWO_COND, call=UNFED),
    Case("two-modality transformer, 1 stream, mask", "transformer", TWO_DEEP | ONE_STREAM, masked=True, call=SKIPPED),
    Case(
        "two-modality transformer, registers",
        "transformer",
        TWO_DEEP | ONE_STREAM | dict(num_register_tokens=3),
        call=SKIPPED,
    ),
    Case("two-modality transformer, 4 streams, mask", "transformer", TWO_DEEP | STREAMS, masked=True, call=SKIPPED),
    Case("generalized block, mask", "general_block", THREE, masked=True),
    Case("generalized block, conditioned, softclamp, mask", "general_block", THREE_COND | CLAMP, masked=True),
    Case("generalized transformer, 1 stream, mask", "general_transformer", THREE_DEEP | ONE_STREAM, masked=True),
    Case("generalized transformer, 4 streams, mask", "general_transformer", THREE_DEEP | STREAMS, masked=True),
)


# --------------------------------------------------------------------------------------------- what both sides share


def run(case: Case, net: Any, given: State) -> tuple[State, State]:
    """Call either side's module; its outputs, and the gradients of its inputs under a fixed weighted sum of them.

    (Not the sum of squares: that of a normed output is nearly constant, and its gradient rounding alone.)
    """
    leaves = {name: x.requires_grad_() for name, x in given.items() if x.is_floating_point()}
    out = {str(i): x for i, x in enumerate(call(case, net, given))}
    sum((x * x.new_tensor(range(x.numel())).sin().view_as(x)).sum() for x in out.values()).backward()
    return {name: x.detach() for name, x in out.items()}, {name: x.grad for name, x in leaves.items()}


def call(case: Case, net: Any, given: State) -> tuple[Any, ...]:
    tokens = [given[f"tokens.{i}"] for i in range(sum(name.startswith("tokens.") for name in given))]
    masks = [given.get(f"mask.{i}") for i in range(len(tokens))]
    cond = {"time_cond": given["cond"]} if "cond" in given else {}
    if case.kind == "joint":
        return tuple(net(tokens, masks))
    if case.kind == "adaptive":
        x, (batch, length, dim) = net(tokens[0], mask=masks[0]), tokens[0].shape
        # theirs: b h n e for several weights, b n (h e) for one; what was meant is the sum over the heads
        return (x.sum(1) if x.ndim == 4 else x.reshape(batch, length, -1, dim).sum(2),)
    if case.kind.startswith("general"):
        return tuple(net(modality_tokens=tuple(tokens), modality_masks=tuple(masks), **cond))
    return tuple(net(text_tokens=tokens[0], image_tokens=tokens[1], text_mask=masks[0], **cond, **case.call))


# ------------------------------------------------------------------------------------------------------- their side


def make_theirs(case: Case, seed: int, std: float | None = 0.2) -> Any:
    """Runs in the published package's environment: its module, with every parameter drawn away from its initial value.

    `std` is that of matrices; None: 1 / sqrt(their width).
    """
    import random
    from importlib.metadata import version

    import torch

    from mmdit import mmdit_pytorch as two
    from mmdit.adaptive_attention import AdaptiveAttention
    from mmdit.networks import transformer as general

    if version("mmdit") != VERSION:
        raise SystemExit(f"mmdit must be {VERSION}, got {version('mmdit')}")
    make = {
        "joint": two.JointAttention,
        "adaptive": AdaptiveAttention,
        "block": two.MMDiTBlock,
        "transformer": two.MMDiT,
        "general_block": general.MMDiTBlock,
        "general_transformer": general.MMDiT,
    }
    random.seed(seed)  # which stream each of their hyper-connections reads at first
    torch.manual_seed(seed)
    net = make[case.kind](**case.options)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("to_out_weights"):  # h d e
                parameter.normal_(std=(parameter.shape[0] * parameter.shape[1]) ** -0.5)
            elif name.endswith((".weight", "dynamic_alpha_fn", "dynamic_beta_fn")) and parameter.ndim > 1:
                parameter.normal_(std=std or parameter.shape[-1] ** -0.5)
            else:  # the manifold's sigmoids and Sinkhorn flatten what is drawn, so it is drawn wider
                manifold = case.kind.startswith("general") and "_residual_fns" in name
                parameter.add_(torch.randn_like(parameter) * (1.0 if manifold else 0.3))
    return net


def random_inputs(case: Case, lengths: tuple[int, ...], batch: int) -> State:
    """Tokens, and conditioning and a mask where the case has them."""
    import torch

    options = case.options
    widths = options.get("dim_inputs") or options.get("dim_modalities")
    widths = widths or ((options["dim"],) if "dim" in options else (options["dim_text"], options["dim_image"]))
    given = {f"tokens.{i}": torch.randn(batch, n, d) for i, (n, d) in enumerate(zip(lengths, widths, strict=False))}
    if case.masked:
        given["mask.0"] = torch.arange(lengths[0]) < torch.tensor([[5], [8]])
    if "dim_cond" in options:
        given["cond"] = torch.randn(batch, options["dim_cond"])
    return given


def save_parts(file: Path, **parts: State) -> None:
    """Tensors by part and name, in one safetensors file that `below` takes apart."""
    from safetensors.torch import save_file

    save_file(
        {f"{part}.{name}": x.detach().contiguous() for part, tensors in parts.items() for name, x in tensors.items()},
        file,
    )


def save_theirs(folder: Path) -> None:
    """Runs in the published package's environment: a file for each case, of what `differences` reads."""
    for index, case in enumerate(CASES):
        net = make_theirs(case, index)
        given = random_inputs(case, (9, 14, 6), BATCH)
        out, gradients = run(case, net, given)
        save_parts(folder / f"{index}.safetensors", state=net.state_dict(), given=given, out=out, gradient=gradients)


# ----------------------------------------------------------------------------------------- their names -> our names


def below(state: State, prefix: str) -> State:
    return {name[len(prefix) :]: x for name, x in state.items() if name.startswith(prefix)}


def under(prefix: str, state: State) -> State:
    return {prefix + name: x for name, x in state.items()}


def joint_attention(theirs: State) -> State:
    ours = {}
    for name, x in theirs.items():
        part, index, _ = name.split(".")
        if part in ("q_rmsnorms", "k_rmsnorms"):
            ours[f"{part[0]}_norms.{index}.weight"] = x.squeeze(1)  # h 1 d
        else:
            ours[f"{part}.{index}.linear.weight"] = x
    return ours


def adaptive_attention(theirs: State, heads: int, weights: int) -> State:
    import torch

    dim, out = theirs["to_qkv.0.weight"].shape[1], theirs["to_out_weights"]
    qkv = theirs["to_qkv.0.weight"].unflatten(0, (-1, weights)).movedim(1, 0)  # (qkv h d w) e -> w (qkv h d) e
    out = torch.einsum("hdew->wehd", out.unflatten(-1, (dim, weights))).flatten(2)
    if weights == 1:
        return {"attention.to_qkv.0.linear.weight": qkv[0], "attention.to_out.0.linear.weight": out[0]}
    return {
        "attention.to_qkv.0.weight": qkv,
        "attention.to_out.0.weight": out,
        "attention.gates.0.linear.weight": theirs["to_gates.0.weight"],
    }


def feedforward(theirs: State) -> State:
    names = {"ff.0.0": "proj_in", "ff.0.proj": "proj_in", "ff.2": "proj_out"}
    return {f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": x for name, x in theirs.items()}


def residual(theirs: State) -> State:
    """Hyper-connections of both kinds; nothing for a plain residual."""
    import torch

    if not theirs:
        return {}
    alpha, shift = theirs["static_alpha"], theirs["dynamic_alpha_fn"]
    dim, columns = shift.shape[-2:]
    scales = ("dynamic_alpha_scale", "dynamic_beta_scale", "pre_branch_scale", "residual_scale", "h_post_scale")
    return {
        "width.pre": alpha[:, :1],
        "width.mix": alpha[:, 1:],
        "width.post": theirs["static_beta"].reshape(-1, 1),
        "width.norm.weight": 1 + theirs["norm.gamma"],
        "width.to_shift.weight": torch.cat(
            [shift.reshape(dim, columns), theirs["dynamic_beta_fn"].reshape(dim, 1)], 1
        ).T,
        "width.scales": torch.stack([theirs[name].reshape(()) for name in scales if name in theirs]),
    }


def modulation(parts: list[tuple[Any, Any, bool]]) -> State:
    """From (weight, bias, is a gamma of a norm) for each of our shift, scale and gate."""
    import torch

    weights, biases, gammas = zip(*parts, strict=True)
    shifted = [bias - 1 if gamma else bias for bias, gamma in zip(biases, gammas, strict=True)]
    return {"linear.weight": torch.cat(weights), "linear.bias": torch.cat(shifted)}


def block(theirs: State) -> State:
    """A two-modality block."""
    ours = under("joint_attn.", joint_attention(below(theirs, "joint_attn.")))
    names = ("text", "image")
    if "to_cond.2.weight" in theirs:
        widths = [theirs[f"{name}_ff.ff.2.bias"].shape[0] for name in names]
        sizes = [w for w in widths for _ in range(4)] + [w for w in widths for _ in range(2)]
        chunks = list(zip(theirs["to_cond.2.weight"].split(sizes), theirs["to_cond.2.bias"].split(sizes), strict=True))
    for i, name in enumerate(names):
        if "to_cond.2.weight" in theirs:
            gammas, betas = chunks[4 * i : 4 * i + 4], chunks[8 + 2 * i : 10 + 2 * i]
            parts = [(*betas[0], False), (*gammas[0], True), (*gammas[1], False)]
            parts += [(*betas[1], False), (*gammas[2], True), (*gammas[3], False)]
            ours |= under(f"modulations.{i}.", modulation(parts))
        for sublayer in ("attn", "ff"):
            ours |= under(f"{sublayer}_norms.{i}.norm.", below(theirs, f"{name}_{sublayer}_layernorm."))
            ours |= under(f"{sublayer}_residuals.{i}.", residual(below(theirs, f"{name}_{sublayer}_residual_fn.")))
        ours |= under(f"feedforwards.{i}.", feedforward(below(theirs, f"{name}_ff.")))
    return ours


def general_block(theirs: State, widths: tuple[int, ...]) -> State:
    ours = under("joint_attn.", joint_attention(below(theirs, "joint_attn.")))
    conditioned = "to_post_branch_gammas.2.weight" in theirs
    for i, width in enumerate(widths):
        if conditioned:
            parts = []
            for sublayer, start in (("attn", 0), ("ff", sum(widths))):
                gate = slice(start + sum(widths[:i]), start + sum(widths[: i + 1]))
                norm = below(theirs, f"{sublayer}_layernorms.{i}.to_cond.2.")
                scale, shift = slice(0, width), slice(width, None)
                parts += [(norm["weight"][rows], norm["bias"][rows], rows is scale) for rows in (shift, scale)]
                gates = below(theirs, "to_post_branch_gammas.2.")
                parts += [(gates["weight"][gate], gates["bias"][gate], False)]
            ours |= under(f"modulations.{i}.", modulation(parts))
        for sublayer in ("attn", "ff"):
            ours |= under(f"{sublayer}_norms.{i}.norm.", below(theirs, f"{sublayer}_layernorms.{i}.ln."))
            ours |= under(f"{sublayer}_residuals.{i}.", residual(below(theirs, f"{sublayer}_residual_fns.{i}.")))
        ours |= under(f"feedforwards.{i}.", feedforward(below(theirs, f"feedforwards.{i}.")))
    return ours


def transformer_config(options: dict[str, Any]) -> Any:
    """A transformer's config; its weights are in the layout `lucidrains`."""
    from mmdit.config import as_config

    widths = options.get("dim_modalities") or (options["dim_text"], options["dim_image"])
    two, streams = "dim_text" in options, options.get("num_residual_streams", 1)
    names = ("text", "image") if two else ("text", "video", "audio")
    model = dict(
        variant="two_modality" if two else "generalized",
        depth=options["depth"],
        modalities={name: {"dim": width} for name, width in zip(names, widths, strict=True)},
        dim_cond=options["dim_cond"],
        heads=options["heads"],
        dim_head=options["dim_head"],
        adaln="identity",
        norm_eps=LAYER_NORM_EPS,
        register_tokens=options.get("num_register_tokens", 0),
        skip_last_feedforward=[],
    )
    if streams > 1:
        model["residual"] = {"kind": ("" if two else "manifold_") + "hyper_connections", "streams": streams}
    return as_config(model).model


# --------------------------------------------------------------------------------------------------------- our side


def build_ours(case: Case, theirs: State) -> Any:
    import mmdit
    from mmdit import mmdit_pytorch as two
    from mmdit.adaptive_attention import AdaptiveAttention
    from mmdit.layers.norms import MultiHeadRMSNorm, RMSNorm
    from mmdit.layouts import from_layout
    from mmdit.networks import transformer as general

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
    import torch
    from safetensors.torch import load_file

    saved = load_file(file)
    net = build_ours(case, below(saved, "state."))

    def largest(got: State, wanted: State) -> float:
        if got.keys() != wanted.keys():
            raise SystemExit(f"{case.name}: {sorted(wanted)} wanted, got {sorted(got)}")
        shares = [(got[name] - x).abs().max() / x.abs().max() for name, x in wanted.items()]
        return torch.stack(shares).max().item()  # torch's maximum does not pass over NaN, as Python's does

    out, gradients = run(case, net, below(saved, "given."))
    return largest(out, below(saved, "out.")), largest(gradients, below(saved, "gradient."))


def make_environment(folder: Path, packages: tuple[str, ...] = PACKAGES) -> Path:
    """A virtual environment with the published package or others, made anew where missing, unfinished or outdated."""
    constraints = ROOT / "constraints.txt"
    wanted = hashlib.sha256(constraints.read_bytes() + repr((packages, sys.version)).encode()).hexdigest()
    done = folder / "complete"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if done.is_file() and done.read_text() == wanted and python.exists():
        return python
    if folder.exists() and not (folder / "pyvenv.cfg").is_file() and any(folder.iterdir()):
        raise OSError(f"{folder} is no virtual environment; name another folder with --environment")
    print(f"making an environment in {folder} (some minutes, once)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), *packages]
    subprocess.run(install, check=True)
    done.write_text(wanted)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="a python that has mmdit 0.3.0; default: make an environment")
    parser.add_argument(
        "--environment", type=Path, default=CACHE / "mmdit" / f"published-{VERSION}", help="default: %(default)s"
    )
    parser.add_argument("--save-theirs", type=Path, help=argparse.SUPPRESS)  # how this script calls itself
    arguments = parser.parse_args()
    if arguments.save_theirs:
        save_theirs(arguments.save_theirs)
        return 0

    try:
        python = arguments.python or make_environment(arguments.environment)
        with tempfile.TemporaryDirectory() as name:
            # -I: nothing of this repository or of PYTHONPATH on their path, where our `mmdit` would hide theirs
            subprocess.run([str(python), "-I", __file__, "--save-theirs", name], check=True)
            found = {case.name: differences(case, Path(name) / f"{i}.safetensors") for i, case in enumerate(CASES)}
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"the published mmdit {VERSION} could not be run: {error}", file=sys.stderr)
        return 2

    width, good = max(map(len, found)), True
    print(f"{'against mmdit ' + VERSION + ', float32':<{width}}  outputs  gradients")
    for name, (out, gradient) in found.items():
        within = out <= OUTPUT_TOLERANCE and gradient <= GRADIENT_TOLERANCE
        good &= within
        print(f"{name:<{width}}  {out:7.1e}  {gradient:9.1e}{'' if within else '  too large'}")
    print(f"largest difference over largest value; at most {OUTPUT_TOLERANCE:g} and {GRADIENT_TOLERANCE:g}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
