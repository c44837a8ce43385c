"""Holds this library against the published `mmdit` 0.3.0, on the settings where that one is right.

Both packages have the import name `mmdit`, so each runs in an interpreter of its own: the published one in a virtual
environment that this script makes (or `--python`), where it draws weights and inputs and saves them with its outputs and
gradients; this one reads them, maps the weights and compares.

    python benchmarks/published_mmdit.py

Prints the largest relative differences and exits 1 where one is above 1e-5 (outputs) or 1e-4 (gradients of the inputs).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mmdit==0.3.0", "torch==2.13.0", "numpy", "safetensors")
OUTPUT_BOUND, GRADIENT_BOUND = 1e-5, 1e-4

T, I, C, H, D = 12, 20, 6, 2, 8  # widths of text, image and conditioning; heads; features a head
ATTENTION = dict(heads=H, dim_head=D)

# name: (published class, its options, whether text is masked, how the last text feedforward is asked for)
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "joint attention": ("joint", {}, False),
    "joint attention, masked": ("joint", {}, True),
    "joint attention, qk-norm, masked": ("joint", dict(qk_rmsnorm=True), True),
    "block": ("block", {}, False),
    "block, masked, no conditioning": ("block", dict(dim_cond=None), True),
    "transformer": ("transformer", dict(num_residual_streams=1), True),
    "transformer, 3 streams": ("transformer", dict(num_residual_streams=3), True),
    "transformer, registers": ("transformer", dict(num_residual_streams=1, num_register_tokens=3), True),
    "generalized block, soft-clamped": ("general block", dict(softclamp=True, softclamp_value=1.5), True),
    "generalized transformer": ("general", dict(num_residual_streams=1), True),
    "generalized transformer, 3 streams": ("general", dict(num_residual_streams=3), True),
}


def make_inputs(torch: Any, masked: bool, conditioned: bool) -> dict[str, Any]:
    given = {"text": torch.randn(2, 7, T), "image": torch.randn(2, 9, I)}
    if conditioned:
        given["cond"] = torch.randn(2, C)
    if masked:
        given["mask"] = torch.arange(7) < torch.tensor([[4], [7]])
    return given


def call(net: Any, kind: str, given: dict[str, Any], *, published: bool) -> Any:
    text, image, mask, cond = (given.get(key) for key in ("text", "image", "mask", "cond"))
    if kind == "joint":
        return net((text, image), (mask, None))
    if kind.startswith("general"):
        return net(modality_tokens=(text, image), modality_masks=(mask, None), time_cond=cond)
    extra = {"skip_feedforward_text_tokens": False} if kind == "block" and published else {}
    return net(text_tokens=text, image_tokens=image, text_mask=mask, time_cond=cond, **extra)


def loss(*outputs: Any) -> Any:
    """A weighted sum. (The sum of squares of a normed output is nearly constant: its gradient is rounding alone.)"""
    return sum((x * x.new_tensor(range(x.numel())).sin().view_as(x)).sum() for x in outputs)


def run_published(folder: Path) -> None:
    """In the published package's interpreter."""
    import torch
    from mmdit import mmdit_generalized_pytorch as general
    from mmdit import mmdit_pytorch as two
    from safetensors.torch import save_file

    makers: dict[str, Callable[..., Any]] = {
        "joint": lambda **o: two.JointAttention(dim_inputs=(T, I), **ATTENTION, **o),
        "block": lambda **o: two.MMDiTBlock(dim_text=T, dim_image=I, **ATTENTION, **o),
        "transformer": lambda **o: two.MMDiT(depth=3, dim_text=T, dim_image=I, **ATTENTION, **o),
        "general block": lambda **o: general.MMDiTBlock(dim_modalities=(T, I), **ATTENTION, **o),
        "general": lambda **o: general.MMDiT(depth=3, dim_modalities=(T, I), **ATTENTION, **o),
    }
    for index, (kind, options, masked) in enumerate(CASES.values()):
        torch.manual_seed(index)
        options = dict(options) if kind == "joint" else {"dim_cond": C} | options
        net = makers[kind](**options)
        for name, parameter in net.named_parameters():
            torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5)
            if name.endswith((".g", ".gamma")):
                torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
        given = make_inputs(torch, masked, options.get("dim_cond") is not None)
        leaves = {name: x.requires_grad_() for name, x in given.items() if x.is_floating_point()}
        text, image = call(net, kind, given, published=True)
        loss(text, image).backward()
        record = {f"weight.{k}": v for k, v in net.state_dict().items()}
        record |= {f"input.{k}": v for k, v in given.items()} | {"output.text": text, "output.image": image}
        record |= {f"gradient.{k}": x.grad for k, x in leaves.items()}
        save_file({k: v.detach().contiguous() for k, v in record.items()}, folder / f"{index}.safetensors")


# ------------------------------------------------------------------------------------------------------------ mapping


class Mapper:
    """Reads the published names and writes ours. Their norms compute `x * gamma + beta`; ours `x * (1 + scale) + shift`."""

    def __init__(self, weights: dict[str, Any]) -> None:
        import torch

        self.torch, self.theirs, self.ours = torch, weights, {}

    def take(self, ours: str, theirs: str) -> None:
        self.ours[ours] = self.theirs[theirs]

    def attention(self, ours: str, theirs: str) -> None:
        for i in range(2):
            self.take(f"{ours}to_qkv.{i}.linear.weight", f"{theirs}to_qkv.{i}.weight")
            self.take(f"{ours}to_out.{i}.linear.weight", f"{theirs}to_out.{i}.weight")
            for part in "qk":
                key = f"{theirs}{part}_rmsnorms.{i}.gamma"
                if key in self.theirs:
                    self.ours[f"{ours}{part}_norms.{i}.weight"] = self.theirs[key].squeeze(1)

    def modulation(self, name: str, parts: list[tuple[str, slice, str]]) -> None:
        """parts: (published linear, rows, "gamma" where 1 must be taken off), in our order shift, scale, gate."""
        weights, biases = [], []
        for linear, rows, role in parts:
            weights.append(self.theirs[f"{linear}.weight"][rows])
            biases.append(self.theirs[f"{linear}.bias"][rows] - (1 if role == "scale" else 0))
        self.ours[f"{name}.linear.weight"] = self.torch.cat(weights)
        self.ours[f"{name}.linear.bias"] = self.torch.cat(biases)

    def residual(self, ours: str, theirs: str) -> None:
        if f"{theirs}.static_alpha" not in self.theirs:
            return
        alpha, shift = self.theirs[f"{theirs}.static_alpha"], self.theirs[f"{theirs}.dynamic_alpha_fn"]
        shift = shift.squeeze(0) if shift.ndim == 3 else shift
        streams = alpha.shape[-1] - 1
        alpha = alpha.reshape(streams, streams + 1)
        width = f"{ours}.width."
        self.ours[f"{width}pre"], self.ours[f"{width}mix"] = alpha[:, :1], alpha[:, 1:]
        self.ours[f"{width}post"] = self.theirs[f"{theirs}.static_beta"].reshape(streams, 1)
        beta = self.theirs[f"{theirs}.dynamic_beta_fn"].reshape(shift.shape[0], 1)
        self.ours[f"{width}to_shift.weight"] = self.torch.cat([shift, beta], 1).T
        self.ours[f"{width}norm.weight"] = 1 + self.theirs[f"{theirs}.norm.gamma"]
        plain = (f"{theirs}.dynamic_alpha_scale", f"{theirs}.dynamic_beta_scale")
        manifold = (f"{theirs}.pre_branch_scale", f"{theirs}.residual_scale", f"{theirs}.h_post_scale")
        names = plain if plain[0] in self.theirs else manifold
        self.ours[f"{width}scales"] = self.torch.stack([self.theirs[name].reshape(()) for name in names])

    def feedforward(self, ours: str, theirs: str) -> None:
        if f"{theirs}.ff.0.0.weight" not in self.theirs:
            return
        for part in ("weight", "bias"):
            self.take(f"{ours}.proj_in.{part}", f"{theirs}.ff.0.0.{part}")
            self.take(f"{ours}.proj_out.{part}", f"{theirs}.ff.2.{part}")

    def norm(self, ours: str, theirs: str) -> None:
        for part in ("weight", "bias"):
            if f"{theirs}.{part}" in self.theirs:
                self.take(f"{ours}.norm.{part}", f"{theirs}.{part}")

    def block(self, p: str, *, last: bool) -> None:
        self.attention(f"{p}joint_attn.", f"{p}joint_attn.")
        for i, name in enumerate(("text", "image")):
            fed = not (last and i == 0)
            self.residual(f"{p}attn_residuals.{i}", f"{p}{name}_attn_residual_fn")
            self.norm(f"{p}attn_norms.{i}", f"{p}{name}_attn_layernorm")
            if fed:
                self.residual(f"{p}ff_residuals.{i}", f"{p}{name}_ff_residual_fn")
                self.norm(f"{p}ff_norms.{i}", f"{p}{name}_ff_layernorm")
                self.feedforward(f"{p}feedforwards.{i}", f"{p}{name}_ff")
            linear = f"{p}to_cond.2"
            if f"{linear}.weight" not in self.theirs:
                continue
            dim, start = (T, 0) if i == 0 else (I, 4 * T)
            betas = 4 * T + 4 * I + (0 if i == 0 else 2 * T)
            gammas = [slice(start + k * dim, start + (k + 1) * dim) for k in range(4)]
            shifts = [slice(betas + k * dim, betas + (k + 1) * dim) for k in range(2)]
            parts = [(linear, shifts[0], "shift"), (linear, gammas[0], "scale"), (linear, gammas[1], "gate")]
            if fed:
                parts += [(linear, shifts[1], "shift"), (linear, gammas[2], "scale"), (linear, gammas[3], "gate")]
            self.modulation(f"{p}modulations.{i}", parts)

    def general_block(self, p: str) -> None:
        self.attention(f"{p}joint_attn.", f"{p}joint_attn.")
        for i, dim in enumerate((T, I)):
            self.residual(f"{p}attn_residuals.{i}", f"{p}attn_residual_fns.{i}")
            self.residual(f"{p}ff_residuals.{i}", f"{p}ff_residual_fns.{i}")
            self.feedforward(f"{p}feedforwards.{i}", f"{p}feedforwards.{i}")
            gates, start = f"{p}to_post_branch_gammas.2", 0 if i == 0 else T
            parts = []
            for half, kind in enumerate(("attn", "ff")):
                linear = f"{p}{kind}_layernorms.{i}.to_cond.2"
                offset = half * (T + I) + start
                parts += [
                    (linear, slice(dim, 2 * dim), "shift"),
                    (linear, slice(dim), "scale"),
                    (gates, slice(offset, offset + dim), "gate"),
                ]
            self.modulation(f"{p}modulations.{i}", parts)

    def whole(self, kind: str) -> dict[str, Any]:
        if kind == "joint":
            self.attention("", "")
        elif kind == "block":
            self.block("", last=False)
        elif kind == "general block":
            self.general_block("")
        else:
            for index in range(3):
                if kind == "general":
                    self.general_block(f"blocks.{index}.")
                else:
                    self.block(f"blocks.{index}.", last=index == 2)
            norms = {"general": {0: "norms.0", 1: "norms.1"}, "transformer": {1: "norm"}}[kind]
            for i, name in norms.items():
                self.take(f"final_norms.{i}.weight", f"{name}.g")
            if self.theirs.get("register_tokens") is not None and self.theirs["register_tokens"].numel():
                self.take("registers.1.tokens", "register_tokens")
        return self.ours


def compare(folder: Path) -> bool:
    """In this project's interpreter; prints the table, and says whether all differences are within the bounds."""
    from safetensors.torch import load_file

    from mmdit import mmdit_generalized_pytorch as general
    from mmdit import mmdit_pytorch as two
    from mmdit.norms import MultiHeadRMSNorm, RMSNorm

    options_here = dict(**ATTENTION, norm_eps=1e-5)
    makers: dict[str, Callable[..., Any]] = {
        "joint": lambda **o: two.JointAttention(dim_inputs=(T, I), **ATTENTION, **o),
        "block": lambda **o: two.MMDiTBlock(dim_text=T, dim_image=I, **options_here, **o),
        "transformer": lambda **o: two.MMDiT(depth=3, dim_text=T, dim_image=I, **options_here, **o),
        "general block": lambda **o: general.MMDiTBlock(dim_modalities=(T, I), **options_here, **o),
        "general": lambda **o: general.MMDiT(depth=3, dim_modalities=(T, I), **options_here, **o),
    }
    print(f"{'against mmdit 0.3.0 (fp32)':<40} {'outputs':>10} {'gradients':>10}")
    good = True
    for index, (name, (kind, options, _)) in enumerate(CASES.items()):
        record = load_file(folder / f"{index}.safetensors")
        part = {p: {k[len(p) + 1 :]: v for k, v in record.items() if k.startswith(p + ".")} for p in _PARTS}
        net = makers[kind](**({} if kind == "joint" else {"dim_cond": C}) | options)
        net.load_state_dict(Mapper(part["weight"]).whole(kind))
        for module in net.modules():
            if isinstance(module, (RMSNorm, MultiHeadRMSNorm)):
                module.eps = 1e-20  # the published RMS norms add none
        given = {k: v.requires_grad_() if v.is_floating_point() else v for k, v in part["input"].items()}
        text, image = call(net, kind, given, published=False)
        loss(text, image).backward()
        outputs = max(_difference(x, part["output"][k]) for k, x in (("text", text), ("image", image)))
        gradients = max(_difference(given[k].grad, wanted) for k, wanted in part["gradient"].items())
        within = outputs <= OUTPUT_BOUND and gradients <= GRADIENT_BOUND
        good &= within
        print(f"{name:<40} {outputs:>10.1e} {gradients:>10.1e}{'' if within else '  TOO LARGE'}")
    print(f"bounds: {OUTPUT_BOUND:g} and {GRADIENT_BOUND:g}, norm of the difference over the norm")
    return good


_PARTS = ("weight", "input", "output", "gradient")


def _difference(ours: Any, theirs: Any) -> float:
    return float((ours.detach() - theirs).norm() / theirs.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="an interpreter that has mmdit 0.3.0; default: make an environment")
    parser.add_argument("--published", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.published:
        run_published(arguments.published)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = arguments.python
        if python is None:
            venv.create(folder / "environment", with_pip=True)
            python = str(folder / "environment" / "bin" / "python")
            install = ["-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), *PACKAGES]
            subprocess.run([python, *install], check=True)
        script = [python, __file__, "--published", str(folder)]
        subprocess.run(script, check=True, cwd=folder)  # away from this project, whose package has the same name
        sys.path.insert(0, str(ROOT))
        raise SystemExit(0 if compare(folder) else 1)


if __name__ == "__main__":
    main()
