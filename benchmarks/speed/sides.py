"""What the speed benchmark runs: our modules, those of diffusers with the same weights, and the bare products of both.

A side is a function of no arguments that returns the seconds of one call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdit.layers.rotary import RotaryTable
from mmdit.networks.transformer import MMDiTBlock

Side = Callable[[], float]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # of the largest difference over the largest value


@dataclass(frozen=True)
class Size:
    """One block: its width, heads of 64 (128 in a FLUX block), and tokens of each modality."""

    dim: int
    text: int
    image: int
    batch: int = 1
    flux: bool = False

    @property
    def heads(self) -> int:
        return self.dim // (128 if self.flux else 64)

    def __str__(self) -> str:
        batch = "" if self.batch == 1 else f"{self.batch} × "
        return f"{self.dim} wide, {batch}({self.text} + {self.image}) tokens"


def timed(call: Callable[[], object], device: str = "cpu") -> Side:
    """Seconds of a call; on CUDA between two events."""
    if device == "cpu":

        def run() -> float:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start

        return run
    from mmdit_cli.profile.timing import Stopwatch

    stopwatch = Stopwatch(torch.device(device))
    return lambda: stopwatch(call)


def step(run: Callable[[], Sequence[Tensor]], mode: str, leaves: Sequence[Tensor]) -> Callable[[], None]:
    """A forward pass without gradients, or forward and backward to all of `leaves`, from gradients of ones."""

    def forward() -> None:
        with torch.inference_mode():
            run()

    def train() -> None:
        outs = run()
        torch.autograd.backward(outs, [torch.ones_like(x) for x in outs])
        for leaf in leaves:
            leaf.grad = None

    for leaf in leaves:
        leaf.requires_grad_(mode == "train")
    return forward if mode == "forward" else train


# --------------------------------------------------------------------------------------------------- a block, two ways


def draw(module: nn.Module) -> nn.Module:
    """Weights that keep the activations' size: modulations start at zero and would hide what they do."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            else:
                parameter.normal_(mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.1)
    return module


def their_block(size: Size) -> nn.Module:
    if size.flux:
        from diffusers.models.transformers.transformer_flux import FluxTransformerBlock

        return draw(FluxTransformerBlock(size.dim, size.heads, 128))
    from diffusers.models.attention import JointTransformerBlock

    return draw(JointTransformerBlock(size.dim, size.heads, 64))


def our_block(size: Size, theirs: nn.Module | None = None, **options: Any) -> MMDiTBlock:
    """The same block, with the weights of theirs."""
    block = MMDiTBlock(
        dim_modalities=(size.dim, size.dim),
        dim_cond=size.dim,
        heads=size.heads,
        dim_head=size.dim // size.heads,
        bias=True,
        ff_kwargs=dict(kind="gelu_tanh"),
        qk_rmsnorm=size.flux,
        qk_norm_shared=True,
        modality_names=("text", "image"),
        **options,
    )
    if theirs is not None:
        block.load_state_dict(block_weights(theirs.state_dict()))
    return block


def block_weights(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Diffusers' names of either block -> ours; text is modality 0."""
    ours = {}
    for kind in ("weight", "bias"):
        for i, (q, k, v, out, context) in enumerate(
            [
                ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "_context"),
                ("to_q", "to_k", "to_v", "to_out.0", ""),
            ]
        ):
            ours[f"joint_attn.to_qkv.{i}.linear.{kind}"] = torch.cat([theirs[f"attn.{x}.{kind}"] for x in (q, k, v)])
            ours[f"joint_attn.to_out.{i}.linear.{kind}"] = theirs[f"attn.{out}.{kind}"]
            ours[f"modulations.{i}.linear.{kind}"] = theirs[f"norm1{context}.linear.{kind}"]
            ours[f"feedforwards.{i}.proj_in.{kind}"] = theirs[f"ff{context}.net.0.proj.{kind}"]
            ours[f"feedforwards.{i}.proj_out.{kind}"] = theirs[f"ff{context}.net.2.{kind}"]
    for norm in ("q", "k"):
        for i, name in enumerate((f"norm_added_{norm}", f"norm_{norm}")):
            if f"attn.{name}.weight" in theirs:
                ours[f"joint_attn.{norm}_norms.{i}.weight"] = theirs[f"attn.{name}.weight"]
    return ours


def block_inputs(size: Size, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Text, image and conditioning."""
    shapes = ((size.batch, size.text, size.dim), (size.batch, size.image, size.dim), (size.batch, size.dim))
    text, image, cond = (torch.randn(shape, device=device, dtype=dtype) for shape in shapes)
    return text, image, cond


def block_runs(
    size: Size, dtype: torch.dtype, mode: str, *, compiled: bool = False, device: str = "cpu"
) -> dict[str, Callable[[], None]]:
    """`ours` and `diffusers` on the same inputs and weights; their outputs were equal."""
    theirs = their_block(size)
    ours = our_block(size, theirs).to(device, dtype)
    theirs.to(device, dtype)
    text, image, cond = block_inputs(size, dtype, device)
    our_options, their_options = {}, {}
    if size.flux:
        places = torch.arange(size.text + size.image, device=device)[:, None] * torch.ones(3, device=device)
        table = RotaryTable((16, 56, 56))(places)
        our_options["rotary"] = [table[: size.text], table[size.text :]]
        cos, sin = (x.repeat_interleave(2, dim=-1) for x in table.unbind(-1))
        their_options["image_rotary_emb"] = (cos, sin)
    call_ours, call_theirs = (torch.compile(net, dynamic=False) if compiled else net for net in (ours, theirs))

    def run_ours() -> Sequence[Tensor]:
        return call_ours(modality_tokens=(text, image), time_cond=cond, **our_options)

    def run_theirs() -> Sequence[Tensor]:
        return call_theirs(hidden_states=image, encoder_hidden_states=text, temb=cond, **their_options)

    with torch.no_grad():
        check_equal(run_ours(), run_theirs(), dtype)
    given = [text, image, cond]
    return {
        "ours": step(run_ours, mode, [*given, *ours.parameters()]),
        "diffusers": step(run_theirs, mode, [*given, *theirs.parameters()]),
    }


def check_equal(ours: Sequence[Tensor], theirs: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Raises RuntimeError where two sides did not compute the same."""
    for a, b in zip(ours, theirs, strict=True):
        difference = ((a.float() - b.float()).abs().max() / b.float().abs().max()).item()
        if not difference <= TOLERANCE[dtype]:
            raise RuntimeError(f"the sides do not compute the same: {difference:.1e} apart, {tuple(a.shape)}")


# ------------------------------------------------------------------------------------------------------ bare products


def products(
    linears: Sequence[tuple[tuple[int, ...], int, bool]],
    attention: tuple[int, int, int, int] | None,
    dtype: torch.dtype,
    mode: str,
    device: str = "cpu",
) -> Callable[[], None]:
    """Matrix products of ready inputs, and one attention call: what the work can't be done without.

    `linears`: shape of the input, width of the output, whether there is a bias; `attention`: the shape b h n d.
    """

    def tensor(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    ready = [
        (tensor(*shape), tensor(out, shape[-1]) * shape[-1] ** -0.5, tensor(out) if bias else None)
        for shape, out, bias in linears
    ]
    qkv: list[Any] = [tensor(*attention) for _ in range(3)] if attention else []

    def run() -> Sequence[Tensor]:
        outs = [F.linear(*each) for each in ready]
        return [*outs, F.scaled_dot_product_attention(*qkv)] if qkv else outs

    return step(run, mode, [x for each in ready for x in each if x is not None] + qkv)


def block_products(size: Size, dtype: torch.dtype, mode: str, device: str = "cpu") -> Callable[[], None]:
    """Those of one block: modulation, qkv, out and feedforward of both modalities, and the joint attention."""
    linears: list[tuple[tuple[int, ...], int, bool]] = []
    for tokens in (size.text, size.image):
        rows, dim = (size.batch, tokens), size.dim
        linears += [((size.batch, dim), 6 * dim, True), ((*rows, dim), 3 * dim, True), ((*rows, dim), dim, True)]
        linears += [((*rows, dim), 4 * dim, True), ((*rows, 4 * dim), dim, True)]
    heads = (size.batch, size.heads, size.text + size.image, size.dim // size.heads)
    return products(linears, heads, dtype, mode, device)
