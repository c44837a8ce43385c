"""MMAudio: the names of its authors (hkchengrex/MMAudio, `mmaudio/model/networks.py`)."""

from __future__ import annotations

from collections.abc import Iterator

from mmdit.layouts.block_lines import below, lines_of
from mmdit.layouts.language import LayoutError
from mmdit.options import FeedForwardInput, ModelOptions

# over how many tokens the convolutions run: of inputs (projection, feedforward), blocks (out projection, feedforward)
INPUTS = {"audio": (7, 7), "sync": (7, 3), "video": (1, 3), "text": (1, 1)}
BLOCKS = {"audio": (3, 3), "video": (3, 3), "text": (1, 1)}
HEAD = 7
SIDES = {"audio": "latent_block", "video": "clip_block", "text": "text_block"}


def authors(config: ModelOptions) -> Iterator[str]:
    if config.names != tuple(SIDES) or config.streamed != ("audio",):
        raise LayoutError("it holds MMAudio, of audio, video and text in this order, and a single stream of the audio")
    if (wrong := _other_kernels(config)) is not None:
        raise LayoutError(f"the convolutions of MMAudio run over other numbers of tokens; see {wrong}")
    yield from lines_of("""
        time_embed.linear_in = t_embed.mlp.0
        time_embed.linear_out = t_embed.mlp.2
        means_embed.linears.video = clip_cond_proj
        means_embed.linears.text = text_cond_proj
        means_embed.feedforward.proj_in = global_cond_mlp.w3 + global_cond_mlp.w1
        means_embed.feedforward.proj_out = global_cond_mlp.w2
        inputs.sync.places = of_two(sync_pos_emb)
        inputs.sync.empty = empty_sync_feat
        inputs.video.empty = empty_clip_feat
        inputs.text.empty = empty_string_feat
        inputs.audio.mean = of_two(latent_mean)
        inputs.audio.deviation = of_two(latent_std)
        outputs.audio.modulation = final_layer.adaLN_modulation.1
        outputs.audio.linear = over_7(final_layer.conv)
    """)
    for name, (first, kernel) in INPUTS.items():
        theirs = f"{'clip' if name == 'video' else name}_input_proj"
        yield f"inputs.{name}.linear = {_over(first, f'{theirs}.0')}"
        place = 1 if getattr(config.inputs[name], "activation", "") == "none" else 2  # behind the activation
        yield from below(f"inputs.{name}", f"{theirs}.{place}", _gated(".feedforward", "", kernel))
    for n in range(config.depth):
        for i, name in enumerate(config.names):
            yield from below(f"transformer.blocks.{n}", f"joint_blocks.{n}.{SIDES[name]}", _side(i, name))
    for n in range(config.single_stream.depth if config.single_stream else 0):
        yield from below(f"transformer.single_blocks.{n}", f"fused_blocks.{n}", _side(0, "audio"))


def _side(i: int, name: str) -> list[str]:
    """What a block has for one modality."""
    out, kernel = BLOCKS[name]
    return [
        *lines_of(f"""
            .modulations.{i}.linear = .adaLN_modulation.1
            .joint_attn.to_qkv.{i}.linear = interleaved(.attn.qkv)
            .joint_attn.q_norms.{i} = .attn.q_norm
            .joint_attn.k_norms.{i} = .attn.k_norm
            .joint_attn.to_out.{i}.linear = {_over(out, ".linear1")}
        """),
        *_gated(f".feedforwards.{i}", ".ffn", kernel),
    ]


def _gated(ours: str, theirs: str, kernel: int) -> list[str]:
    """The feedforward, whose gate they call w1 and value w3."""
    value, gate, out = (_over(kernel, f"{theirs}.{w}") for w in ("w3", "w1", "w2"))
    return [f"{ours}.proj_in = {value} + {gate}", f"{ours}.proj_out = {out}"]


def _over(kernel: int, theirs: str) -> str:
    return theirs if kernel == 1 else f"over_{kernel}({theirs})"


def _other_kernels(config: ModelOptions) -> str | None:
    """The key of a convolution that is not MMAudio's, if there is one."""
    for name, kernels in INPUTS.items():
        end = config.inputs.get(name)
        own = end.feedforward if isinstance(end, FeedForwardInput) else None
        second = (own or config.feedforward.of_modality(name)).kernel
        if not isinstance(end, FeedForwardInput) or (end.kernel, second) != kernels:
            return f"the input {name}"
    for name, kernels in BLOCKS.items():
        if (config.attention.of_modality(name).out_kernel, config.feedforward.of_modality(name).kernel) != kernels:
            return f"attention.out_kernel and feedforward.kernel of {name}"
    return None if getattr(config.modalities["audio"].output, "kernel", None) == HEAD else "the output of audio"
