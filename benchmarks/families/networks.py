"""Small networks of the published families, ours and those of diffusers, with the same weights, called alike.

The facts about the published sizes are those of the constructors of diffusers 0.42.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

import mmdit
from mmdit.config import Config
from mmdit.config.file import load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True)
class Family:
    """A shipped config and the class of diffusers that is the same network.

    `small` is what makes the config small, and `options` what makes theirs small; `published` are their arguments at
    the published size, which has so many `parameters`. `call` runs theirs on what ours takes.
    """

    config: str
    small: dict[str, Any]
    theirs: Callable[..., nn.Module]
    options: dict[str, Any]
    call: Callable[..., Tensor]
    published: dict[str, Any]
    parameters: int

    def __str__(self) -> str:
        return self.config

    def small_config(self) -> Config:
        overrides = [f"{key}={value}" for key, value in self.small.items()]
        return load_config(CONFIGS / f"{self.config}.yaml", Config, overrides=overrides)


# ----------------------------------------------------------------------------------------------- theirs, called as ours


def pack(image: Tensor) -> Tensor:
    return rearrange(image, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpack(patches: Tensor, like: Tensor) -> Tensor:
    return rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", p=2, q=2, h=like.shape[2] // 2)


def places(image: Tensor, length: int, axes: int, text_axis: int | None = None) -> tuple[Tensor, Tensor]:
    """The ids of image and text tokens, as the FLUX pipelines of diffusers make them."""
    h, w = image.shape[2] // 2, image.shape[3] // 2
    ids = torch.zeros(h, w, axes)
    ids[..., 1] += torch.arange(h)[:, None]
    ids[..., 2] += torch.arange(w)[None]
    text = torch.zeros(length, axes)
    if text_axis is not None:
        text[:, text_axis] = torch.arange(length)
    return ids.flatten(0, 1), text


def call_sd3(net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, pooled: Tensor, **_: Any) -> Tensor:
    return net(image, text, pooled, timestep, return_dict=False)[0]


def call_qwen(net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, **_: Any) -> Tensor:
    shape = [(1, image.shape[2] // 2, image.shape[3] // 2)] * len(image)
    return unpack(net(pack(image), text, None, timestep, [shape[:1]] * len(image), return_dict=False)[0], image)


def call_flux1(
    net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, pooled: Tensor, guidance: Tensor | None = None
) -> Tensor:
    image_ids, text_ids = places(image, text.shape[1], 3)
    out = net(pack(image), text, pooled, timestep, image_ids, text_ids, guidance, return_dict=False)
    return unpack(out[0], image)


def call_flux2(
    net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, guidance: Tensor | None = None, **_: Any
) -> Tensor:
    image_ids, text_ids = places(image, text.shape[1], 4, text_axis=3)
    out = net(pack(image), text, timestep, image_ids, text_ids, guidance, return_dict=False)
    return unpack(out[0], image)


def call_auraflow(net: nn.Module, image: Tensor, text: Tensor, timestep: Tensor, **_: Any) -> Tensor:
    return net(image, text, timestep, return_dict=False)[0]


# --------------------------------------------------------------------------------------------------------- the families


def _theirs(name: str) -> Callable[..., nn.Module]:
    def make(**options: Any) -> nn.Module:
        import diffusers

        return getattr(diffusers, name)(**options)

    return make


TEXT, IMAGE = "model.modalities.text", "model.modalities.image"
SD3_SMALL = {
    "model.depth": 3,
    f"{TEXT}.dim": 64,
    f"{TEXT}.input.dim": 40,
    f"{IMAGE}.dim": 64,
    f"{IMAGE}.input.channels": 4,
    f"{IMAGE}.output.channels": 4,
    f"{IMAGE}.input.max_size": 24,
    f"{IMAGE}.input.base_size": 16,
    "model.pooled.dim": 24,
    "model.dim_cond": 64,
    "model.heads": 4,
    "model.dim_head": 16,
}
SD3_OPTIONS: dict[str, Any] = dict(
    sample_size=32,
    patch_size=2,
    in_channels=4,
    out_channels=4,
    num_layers=3,
    num_attention_heads=4,
    attention_head_dim=16,
    joint_attention_dim=40,
    caption_projection_dim=64,
    pooled_projection_dim=24,
    pos_embed_max_size=24,
)
SD3_PUBLISHED: dict[str, Any] = dict(
    sample_size=128,
    patch_size=2,
    in_channels=16,
    out_channels=16,
    num_layers=24,
    num_attention_heads=24,
    attention_head_dim=64,
    joint_attention_dim=4096,
    caption_projection_dim=1536,
    pooled_projection_dim=2048,
    pos_embed_max_size=192,
)
# heads of 16 with 4, 6 and 6 features for frame, row and column
ROTARY_SMALL = {
    "model.depth": 2,
    f"{TEXT}.dim": 64,
    f"{TEXT}.input.dim": 40,
    f"{IMAGE}.dim": 64,
    f"{IMAGE}.input.channels": 4,
    f"{IMAGE}.output.channels": 4,
    "model.dim_cond": 64,
    "model.heads": 4,
    "model.dim_head": 16,
}
ROTARY_OPTIONS: dict[str, Any] = dict(
    in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=4, joint_attention_dim=40
)

SD3 = _theirs("SD3Transformer2DModel")
FAMILIES = (
    Family("sd3-medium", SD3_SMALL, SD3, SD3_OPTIONS, call_sd3, SD3_PUBLISHED, 2_028_328_000),
    Family(
        "sd3.5-medium",
        SD3_SMALL | {"model.attention.dual": "[0, 1]"},
        SD3,
        SD3_OPTIONS | dict(qk_norm="rms_norm", dual_attention_layers=(0, 1)),
        call_sd3,
        SD3_PUBLISHED | dict(pos_embed_max_size=384, qk_norm="rms_norm", dual_attention_layers=tuple(range(13))),
        2_243_171_520,
    ),
    Family(
        "sd3.5-large",
        SD3_SMALL,
        SD3,
        SD3_OPTIONS | dict(qk_norm="rms_norm"),
        call_sd3,
        SD3_PUBLISHED | dict(num_layers=38, num_attention_heads=38, caption_projection_dim=2432, qk_norm="rms_norm"),
        8_056_627_520,
    ),
    Family(
        "qwen-image",
        ROTARY_SMALL | {"model.rotary.axes": "[4, 6, 6]"},
        _theirs("QwenImageTransformer2DModel"),
        ROTARY_OPTIONS | dict(out_channels=4, axes_dims_rope=(4, 6, 6)),
        call_qwen,
        {},
        20_430_401_088,
    ),
    Family(
        "flux.1-dev",
        ROTARY_SMALL | {"model.rotary.axes": "[4, 6, 6]", "model.single_stream.depth": 3, "model.pooled.dim": 24},
        _theirs("FluxTransformer2DModel"),
        ROTARY_OPTIONS
        | dict(axes_dims_rope=(4, 6, 6), num_single_layers=3, pooled_projection_dim=24, guidance_embeds=True),
        call_flux1,
        dict(
            patch_size=1,
            in_channels=64,
            num_layers=19,
            num_single_layers=38,
            attention_head_dim=128,
            num_attention_heads=24,
            joint_attention_dim=4096,
            pooled_projection_dim=768,
            guidance_embeds=True,
        ),
        11_901_408_320,
    ),
    Family(
        "flux.2-dev",
        ROTARY_SMALL | {"model.rotary.axes": "[4, 4, 4, 4]", "model.single_stream.depth": 3},
        _theirs("Flux2Transformer2DModel"),
        ROTARY_OPTIONS | dict(axes_dims_rope=(4, 4, 4, 4), num_single_layers=3),
        call_flux2,
        {},
        32_223_281_152,
    ),
    Family(
        "auraflow",
        ROTARY_SMALL | {f"{IMAGE}.input.max_size": 11, "model.single_stream.depth": 2, "model.feedforward.dim": 256},
        _theirs("AuraFlowTransformer2DModel"),
        dict(
            sample_size=22,
            in_channels=4,
            out_channels=4,
            num_mmdit_layers=2,
            num_single_dit_layers=2,
            attention_head_dim=16,
            num_attention_heads=4,
            joint_attention_dim=40,
            caption_projection_dim=64,
            pos_embed_max_size=121,
        ),
        call_auraflow,
        {},
        6_833_439_744,
    ),
)
BY_NAME = {family.config: family for family in FAMILIES}


def random_theirs(family: Family, seed: int = 0) -> nn.Module:
    """Theirs with every parameter away from its initial value."""
    torch.manual_seed(seed)
    net = family.theirs(**family.options)
    randomize(net)
    return net.eval()


def randomize(net: nn.Module) -> None:
    """Weights that keep the activations' size, biases and scales that do not vanish."""
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            nn.init.normal_(parameter, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.3)


def ours_of(theirs: nn.Module, family: Family) -> nn.Module:
    """Our network with their weights."""
    from mmdit.layouts import from_layout

    config = family.small_config().model
    net = mmdit.build(config)
    net.load_state_dict(from_layout(theirs.state_dict(), config, "diffusers"))
    return net.eval()


def random_call(
    family: Family, *, batch: int = 2, height: int = 12, width: int = 8, length: int = 7, seed: int = 1
) -> dict[str, Any]:
    """What `mmdit.MMDiTModel` is called with: an image, text, timesteps, and what else the family takes."""
    config = family.small_config().model
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    scale = config.timestep.scale
    arguments: dict[str, Any] = dict(
        inputs={
            "text": draw(batch, length, config.modalities["text"].input.dim),
            "image": draw(batch, config.modalities["image"].input.channels, height, width),
        },
        timestep=torch.rand(batch, generator=generator) * (1000 if scale == 1 else 1),
    )
    if config.pooled is not None:
        arguments["pooled"] = draw(batch, config.pooled.dim)
    if config.guidance is not None:
        arguments["guidance"] = torch.rand(batch, generator=generator) * 5 + 1
    return arguments


def call_theirs(net: nn.Module, family: Family, arguments: dict[str, Any]) -> Tensor:
    """Their image, from our arguments."""
    rest = {key: value for key, value in arguments.items() if key != "inputs"}
    return family.call(net, arguments["inputs"]["image"], arguments["inputs"]["text"], **rest)


# ----------------------------------------------------------------------------------------------------- what is compared

CALLS: tuple[dict[str, int], ...] = (
    dict(batch=2, height=12, width=8, length=7, seed=1),
    dict(batch=1, height=8, width=20, length=1, seed=2),
    dict(batch=3, height=6, width=10, length=13, seed=3),
)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """`|ours - theirs| / |theirs|`, in the Euclidean norm."""
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm().clamp(min=1e-300)).item()


def output_error(family: Family) -> float:
    """The largest relative difference of the outputs, over several batch sizes, image shapes and text lengths."""
    theirs = random_theirs(family)
    ours = ours_of(theirs, family)
    errors = []
    with torch.no_grad():
        for call in CALLS:
            arguments = random_call(family, **call)
            errors.append(relative(ours(**arguments)["image"], call_theirs(theirs, family, arguments)))
    return max(errors)


def gradient_errors(family: Family) -> dict[str, float]:
    """By tensor of ours, and by input: the relative difference of the gradients of a weighted sum of the output.

    Of a tensor whose gradient all but cancels, such as a key's bias, the difference is taken relative to a millionth of
    the largest gradient instead.
    """
    from mmdit.layouts import from_layout

    theirs = random_theirs(family)
    ours = ours_of(theirs, family)
    arguments = random_call(family)
    inputs = arguments["inputs"]
    found = []
    for net, run in (
        (theirs, lambda: call_theirs(theirs, family, arguments)),
        (ours, lambda: ours(**arguments)["image"]),
    ):
        leaves = {name: x.requires_grad_() for name, x in inputs.items()}
        for x in leaves.values():
            x.grad = None
        out = run()
        (out * torch.arange(out.numel()).sin().view_as(out)).sum().backward()
        parameters = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in net.named_parameters()}
        found.append((parameters, {f"input {name}": x.grad.clone() for name, x in leaves.items()}))
    (their_parameters, their_inputs), (our_parameters, our_inputs) = found
    fixed = {name: x for name, x in theirs.state_dict().items() if name not in their_parameters}  # position tables
    wanted = from_layout(their_parameters | fixed, family.small_config().model, "diffusers") | their_inputs
    got = our_parameters | our_inputs
    floor = max(x.norm().item() for x in wanted.values()) * 1e-6
    return {
        name: ((got[name] - x).double().norm() / max(x.double().norm().item(), floor)).item()
        for name, x in wanted.items()
    }


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """The joint and single-stream blocks of either side, in order."""
    lists = ("joint_transformer_blocks", "transformer_blocks", "single_transformer_blocks")
    stack = getattr(net, "transformer", None)
    if stack is not None:
        return [*stack.blocks, *stack.single_blocks]
    return [block for name in lists for block in getattr(net, name, ())]


def block_outputs(net: nn.Module, image_tokens: int, run: Callable[[], Any]) -> list[Tensor]:
    """What each block gives for the image."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        last = output if isinstance(output, Tensor) else output[-1]  # a single stream ends with the image
        outputs.append(last[:, -image_tokens:].detach())

    handles = [block.register_forward_hook(keep) for block in blocks_of(net)]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return outputs
