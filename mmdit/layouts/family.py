"""What a family of published networks is, and the lines that several have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mmdit.config.model import ModelConfig

__all__ = ["Family", "Lines", "below", "joint_lines", "lines_of", "single_lines"]

Lines = Callable[[ModelConfig], Iterable[str]]  # in the language that `language.py` explains
PIPELINE = "model.diffusion_model."  # stands before the names in an official file of a whole pipeline


@dataclass(frozen=True)
class Family:
    """Published networks of one design.

    Attributes:
        name: as in an error.
        blocks: whether a config with text and image has the blocks and positions of this family.
        layouts: the lines of each layout that holds these networks.
        feedforward: the kind that all of them have.
        rotary: whether they have rotary embeddings.
        prefixes: what may stand before every name in a file, by layout; the first is written. None stands for none.
    """

    name: str
    blocks: Callable[[ModelConfig], bool]
    layouts: Mapping[str, Lines]
    feedforward: str = "gelu_tanh"
    rotary: bool = True
    prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def lacks(self, config: ModelConfig) -> list[str]:
        """What a config would need beside the blocks, as one would write it there."""
        holds = {
            f"feedforward.kind: {self.feedforward}": config.feedforward.kind == self.feedforward,
            "discard: [text]": tuple(config.discard) == ("text",),
            "attention.qk_norm_scale: shared": not config.qk_rmsnorm or config.attention.qk_norm_scale == "shared",
            "rotary" if self.rotary else "rotary: null": (config.rotary is not None) == self.rotary,
        }
        return [key for key, held in holds.items() if not held]


def lines_of(text: str) -> list[str]:
    """The lines of a text, without indentation and empty ones."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def below(ours: str, theirs: str, lines: str | Iterable[str]) -> Iterator[str]:
    """The same lines with `.ours` and `.theirs` in front of the names that begin with a dot."""
    for line in lines_of(lines) if isinstance(lines, str) else lines:
        left, right = line.split(" = ")
        yield f"{_prefixed(left, ours)} = {_prefixed(right, theirs)}"


def _prefixed(side: str, prefix: str) -> str:
    return "".join(f"{prefix}." if c == "." and (i == 0 or side[i - 1] in " (") else c for i, c in enumerate(side))


def joint_lines(config: ModelConfig, theirs: str, lines: str, last: str = "") -> Iterator[str]:
    """The lines of every joint block; where the last one discards the text, `last` replaces those of the same names."""
    replaced = {line.split(" = ")[0] for line in lines_of(last)}
    kept = [line for line in lines_of(lines) if line.split(" = ")[0] not in replaced]
    for n in range(config.depth):
        special = n == config.depth - 1 and config.discard and config.unused_weights != "all"
        chosen = [*kept, *lines_of(last)] if last and special else lines_of(lines)
        yield from below(f"transformer.blocks.{n}", f"{theirs}.{n}", chosen)


def single_lines(config: ModelConfig, theirs: str, lines: str) -> Iterator[str]:
    """The lines of every single-stream block."""
    for n in range(config.single_stream.depth if config.single_stream else 0):
        yield from below(f"transformer.single_blocks.{n}", f"{theirs}.{n}", lines)


# what diffusers calls the same in several families

DIFFUSERS_ATTENTION = """
    .joint_attn.to_qkv.0.linear = .attn.add_q_proj + .attn.add_k_proj + .attn.add_v_proj
    .joint_attn.to_qkv.1.linear = .attn.to_q + .attn.to_k + .attn.to_v
    .joint_attn.to_out.0.linear = .attn.to_add_out
    .joint_attn.to_out.1.linear = .attn.to_out.0
    .joint_attn.q_norms.0 = .attn.norm_added_q
    .joint_attn.k_norms.0 = .attn.norm_added_k
    .joint_attn.q_norms.1 = .attn.norm_q
    .joint_attn.k_norms.1 = .attn.norm_k
"""
DIFFUSERS_MODULATION = """
    .modulations.0.linear = .norm1_context.linear
    .modulations.1.linear = .norm1.linear
"""
DIFFUSERS_FEEDFORWARD = """
    .feedforwards.0.proj_in = .ff_context.net.0.proj
    .feedforwards.0.proj_out = .ff_context.net.2
    .feedforwards.1.proj_in = .ff.net.0.proj
    .feedforwards.1.proj_out = .ff.net.2
"""
DIFFUSERS_TIME = """
    time_embed.linear_in = .timestep_embedder.linear_1
    time_embed.linear_out = .timestep_embedder.linear_2
    guidance_embed.linear_in = .guidance_embedder.linear_1
    guidance_embed.linear_out = .guidance_embedder.linear_2
    pooled_embed.linear_in = .text_embedder.linear_1
    pooled_embed.linear_out = .text_embedder.linear_2
"""
