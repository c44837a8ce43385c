"""The rules of each layout: `ours = theirs`, in the language that `layouts.py` explains.

A table is a function of the model's config that gives its lines, or a text that says why it has none. Names and orders
are those of the published code: diffusers 0.42, Stability-AI/sd3.5 (`mmditx.py`), black-forest-labs/flux and flux2
(`model.py`), and the package `mmdit` 0.2 and 0.3.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmdit.options import ModelOptions, PatchInput


def family(config: ModelOptions) -> str:
    """Which published family a model is of, or why of none."""
    kind = _family(config)
    if kind not in FAMILIES:
        return kind
    wanted = "swiglu" if kind in ("flux.2", "auraflow") else "gelu_tanh"
    problems = {
        f"feedforward.kind: {wanted}": config.feedforward.kind != wanted,
        "discard: [text]": tuple(config.discard) != ("text",),
        "attention.qk_norm_scale: shared": config.qk_rmsnorm and config.attention.qk_norm_scale != "shared",
        "rotary": (config.rotary is None) != (kind in ("sd3", "auraflow")),
    }
    missing = [key for key, wrong in problems.items() if wrong]
    return f"networks of the family {kind} have {', '.join(missing)}" if missing else kind


def _family(config: ModelOptions) -> str:
    image = config.modalities.get("image")
    if tuple(config.modalities) != ("text", "image") or image is None or not isinstance(image.input, PatchInput):
        return "the published networks have the modalities text and image, in this order, and an image input of patches"
    single = config.single_stream
    if config.residual.kind == "nested":
        return "auraflow"
    if single is not None and single.kind == "parallel":
        return "flux.2" if config.modulation.shared else "flux.1"
    if single is not None:
        return "its blocks are those of no published network"
    if image.input.positions == "sincos":
        return "sd3"
    return "qwen-image" if config.rotary is not None else "its positions are those of no published network"


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def below(ours: str, theirs: str, lines: str | list[str]) -> Iterator[str]:
    """The same lines with `.ours` and `.theirs` in front of the names that begin with a dot."""
    for line in lines_of(lines) if isinstance(lines, str) else lines:
        left, right = line.split(" = ")
        yield f"{_prefixed(left, ours)} = {_prefixed(right, theirs)}"


def _prefixed(side: str, prefix: str) -> str:
    return "".join(f"{prefix}." if c == "." and (i == 0 or side[i - 1] in " (") else c for i, c in enumerate(side))


def _joint(config: ModelOptions, theirs: str, lines: str, last: str = "") -> Iterator[str]:
    """The lines of every joint block; where the last one discards the text, `last` replaces those of the same names."""
    replaced = {line.split(" = ")[0] for line in lines_of(last)}
    kept = [line for line in lines_of(lines) if line.split(" = ")[0] not in replaced]
    for n in range(config.depth):
        special = n == config.depth - 1 and config.discard and config.unused_weights != "all"
        chosen = [*kept, *lines_of(last)] if last and special else lines_of(lines)
        yield from below(f"transformer.blocks.{n}", f"{theirs}.{n}", chosen)


def _single(config: ModelOptions, theirs: str, lines: str) -> Iterator[str]:
    for n in range(config.single_stream.depth if config.single_stream else 0):
        yield from below(f"transformer.single_blocks.{n}", f"{theirs}.{n}", lines)


# ---------------------------------------------------------------------------------------------------------- diffusers

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
DIFFUSERS_BLOCK = (
    DIFFUSERS_ATTENTION
    + """
    .modulations.0.linear = .norm1_context.linear
    .modulations.1.linear = .norm1.linear
    .dual_attns.1.to_qkv.0.linear = .attn2.to_q + .attn2.to_k + .attn2.to_v
    .dual_attns.1.to_out.0.linear = .attn2.to_out.0
    .dual_attns.1.q_norms.0 = .attn2.norm_q
    .dual_attns.1.k_norms.0 = .attn2.norm_k
    .feedforwards.0.proj_in = .ff_context.net.0.proj
    .feedforwards.0.proj_out = .ff_context.net.2
    .feedforwards.1.proj_in = .ff.net.0.proj
    .feedforwards.1.proj_out = .ff.net.2
"""
)
# its last norm is modulated by scale and shift, in this order
DIFFUSERS_LAST = ".modulations.0.linear = swap(.norm1_context.linear)"

DIFFUSERS_TIME = """
    time_embed.linear_in = .timestep_embedder.linear_1
    time_embed.linear_out = .timestep_embedder.linear_2
    guidance_embed.linear_in = .guidance_embedder.linear_1
    guidance_embed.linear_out = .guidance_embedder.linear_2
    pooled_embed.linear_in = .text_embedder.linear_1
    pooled_embed.linear_out = .text_embedder.linear_2
"""


def diffusers(config: ModelOptions) -> list[str] | str:
    kinds = {
        "sd3": _diffusers_sd3,
        "qwen-image": _diffusers_qwen,
        "flux.1": _diffusers_flux1,
        "flux.2": _diffusers_flux2,
        "auraflow": _diffusers_auraflow,
    }
    kind = family(config)
    return list(kinds[kind](config)) if kind in kinds else kind


def _diffusers_sd3(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = conv(pos_embed.proj)
        inputs.text.linear = context_embedder
        outputs.image.modulation = swap(norm_out.linear)
        outputs.image.linear = proj_out
    """)
    yield from below("", "time_text_embed", DIFFUSERS_TIME)
    yield from _joint(config, "transformer_blocks", DIFFUSERS_BLOCK, DIFFUSERS_LAST)


def _diffusers_qwen(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = img_in
        inputs.text.norm = txt_norm
        inputs.text.linear = txt_in
        outputs.image.modulation = swap(norm_out.linear)
        outputs.image.linear = patch(proj_out)
    """)
    yield from below("", "time_text_embed", DIFFUSERS_TIME)
    yield from _joint(
        config,
        "transformer_blocks",
        DIFFUSERS_ATTENTION
        + """
    .modulations.0.linear = .txt_mod.1
    .modulations.1.linear = .img_mod.1
    .feedforwards.0.proj_in = .txt_mlp.net.0.proj
    .feedforwards.0.proj_out = .txt_mlp.net.2
    .feedforwards.1.proj_in = .img_mlp.net.0.proj
    .feedforwards.1.proj_out = .img_mlp.net.2
""",
    )


def _diffusers_flux1(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = x_embedder
        inputs.text.linear = context_embedder
        outputs.image.modulation = swap(norm_out.linear)
        outputs.image.linear = patch(proj_out)
    """)
    yield from below("", "time_text_embed", DIFFUSERS_TIME)
    yield from _joint(config, "transformer_blocks", DIFFUSERS_BLOCK)
    yield from _single(
        config,
        "single_transformer_blocks",
        """
        .modulation.linear = .norm.linear
        .attn.to_qkv.0.linear = .attn.to_q + .attn.to_k + .attn.to_v
        .attn.q_norms.0 = .attn.norm_q
        .attn.k_norms.0 = .attn.norm_k
        .feedforward.proj_in = .proj_mlp
        .attn.to_out.0.linear.weight | .feedforward.proj_out.weight = .proj_out.weight
        .feedforward.proj_out.bias = .proj_out.bias
        """,
    )


def _diffusers_flux2(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = x_embedder
        inputs.text.linear = context_embedder
        outputs.image.modulation = swap(norm_out.linear)
        outputs.image.linear = patch(proj_out)
        transformer.shared_modulations.0.linear = double_stream_modulation_txt.linear
        transformer.shared_modulations.1.linear = double_stream_modulation_img.linear
        transformer.shared_single_modulation.linear = single_stream_modulation.linear
    """)
    yield from below("", "time_guidance_embed", DIFFUSERS_TIME)
    yield from _joint(
        config,
        "transformer_blocks",
        DIFFUSERS_ATTENTION
        + """
    .feedforwards.0.proj_in = swap(.ff_context.linear_in)
    .feedforwards.0.proj_out = .ff_context.linear_out
    .feedforwards.1.proj_in = swap(.ff.linear_in)
    .feedforwards.1.proj_out = .ff.linear_out
""",
    )
    yield from _single(
        config,
        "single_transformer_blocks",
        """
        .attn.to_qkv.0.linear + swap(.feedforward.proj_in) = .attn.to_qkv_mlp_proj
        .attn.to_out.0.linear | .feedforward.proj_out = .attn.to_out
        .attn.q_norms.0 = .attn.norm_q
        .attn.k_norms.0 = .attn.norm_k
        """,
    )


def _diffusers_auraflow(config: ModelOptions) -> Iterator[str]:
    yield from lines_of("""
        inputs.image.linear = pos_embed.proj
        inputs.image.positions.table = batch(pos_embed.pos_embed)
        inputs.text.linear = context_embedder
        time_embed.linear_in = time_step_proj.linear_1
        time_embed.linear_out = time_step_proj.linear_2
        transformer.registers.0.tokens = batch(register_tokens)
        outputs.image.modulation = swap(norm_out.linear)
        outputs.image.linear = proj_out
    """)
    yield from _joint(
        config,
        "joint_transformer_blocks",
        DIFFUSERS_ATTENTION
        + """
    .modulations.0.linear = .norm1_context.linear
    .modulations.1.linear = .norm1.linear
    .feedforwards.0.proj_in = .ff_context.linear_2 + .ff_context.linear_1
    .feedforwards.0.proj_out = .ff_context.out_projection
    .feedforwards.1.proj_in = .ff.linear_2 + .ff.linear_1
    .feedforwards.1.proj_out = .ff.out_projection
""",
    )
    yield from _single(
        config,
        "single_transformer_blocks",
        """
        .modulations.0.linear = .norm1.linear
        .joint_attn.to_qkv.0.linear = .attn.to_q + .attn.to_k + .attn.to_v
        .joint_attn.to_out.0.linear = .attn.to_out.0
        .feedforwards.0.proj_in = .ff.linear_2 + .ff.linear_1
        .feedforwards.0.proj_out = .ff.out_projection
        """,
    )


# ---------------------------------------------------------------------------------------------------------- stability


def stability(config: ModelOptions) -> list[str] | str:
    """The original checkpoints of SD3 and SD3.5."""
    kind = family(config)
    if kind != "sd3":
        return "it holds the networks of the SD3 family" if kind in FAMILIES else kind
    lines = lines_of("""
        inputs.image.linear = conv(x_embedder.proj)
        inputs.text.linear = context_embedder
        time_embed.linear_in = t_embedder.mlp.0
        time_embed.linear_out = t_embedder.mlp.2
        pooled_embed.linear_in = y_embedder.mlp.0
        pooled_embed.linear_out = y_embedder.mlp.2
        outputs.image.modulation = final_layer.adaLN_modulation.1
        outputs.image.linear = final_layer.linear
    """)
    sides = "\n".join(
        f"""
        .modulations.{i}.linear = .{side}.adaLN_modulation.1
        .joint_attn.to_qkv.{i}.linear = .{side}.attn.qkv
        .joint_attn.to_out.{i}.linear = .{side}.attn.proj
        .joint_attn.q_norms.{i} = .{side}.attn.ln_q
        .joint_attn.k_norms.{i} = .{side}.attn.ln_k
        .feedforwards.{i}.proj_in = .{side}.mlp.fc1
        .feedforwards.{i}.proj_out = .{side}.mlp.fc2
        .dual_attns.{i}.to_qkv.0.linear = .{side}.attn2.qkv
        .dual_attns.{i}.to_out.0.linear = .{side}.attn2.proj
        .dual_attns.{i}.q_norms.0 = .{side}.attn2.ln_q
        .dual_attns.{i}.k_norms.0 = .{side}.attn2.ln_k
        """.strip()
        for i, side in enumerate(("context_block", "x_block"))
    )
    return [*lines, *_joint(config, "joint_blocks", sides)]


# --------------------------------------------------------------------------------------------------------------- flux


def flux(config: ModelOptions) -> list[str] | str:
    """The original checkpoints of FLUX.1 and FLUX.2."""
    kind = family(config)
    if kind not in ("flux.1", "flux.2"):
        return "it holds the networks of the FLUX families" if kind in FAMILIES else kind
    # FLUX.2's feedforwards have the gate's rows first
    mlp = "swap({})" if kind == "flux.2" else "{}"
    lines = lines_of("""
        inputs.image.linear = img_in
        inputs.text.linear = txt_in
        time_embed.linear_in = time_in.in_layer
        time_embed.linear_out = time_in.out_layer
        guidance_embed.linear_in = guidance_in.in_layer
        guidance_embed.linear_out = guidance_in.out_layer
        pooled_embed.linear_in = vector_in.in_layer
        pooled_embed.linear_out = vector_in.out_layer
        transformer.shared_modulations.0.linear = double_stream_modulation_txt.lin
        transformer.shared_modulations.1.linear = double_stream_modulation_img.lin
        transformer.shared_single_modulation.linear = single_stream_modulation.lin
        outputs.image.modulation = final_layer.adaLN_modulation.1
        outputs.image.linear = patch(final_layer.linear)
    """)
    sides = "\n".join(
        f"""
        .modulations.{i}.linear = .{side}_mod.lin
        .joint_attn.to_qkv.{i}.linear = .{side}_attn.qkv
        .joint_attn.to_out.{i}.linear = .{side}_attn.proj
        .joint_attn.q_norms.{i}.weight = .{side}_attn.norm.query_norm.scale
        .joint_attn.k_norms.{i}.weight = .{side}_attn.norm.key_norm.scale
        .feedforwards.{i}.proj_in = {mlp.format(f".{side}_mlp.0")}
        .feedforwards.{i}.proj_out = .{side}_mlp.2
        """.strip()
        for i, side in enumerate(("txt", "img"))
    )
    single = f"""
        .modulation.linear = .modulation.lin
        .attn.to_qkv.0.linear + {mlp.format(".feedforward.proj_in")} = .linear1
        .attn.to_out.0.linear.weight | .feedforward.proj_out.weight = .linear2.weight
        .feedforward.proj_out.bias = .linear2.bias
        .attn.q_norms.0.weight = .norm.query_norm.scale
        .attn.k_norms.0.weight = .norm.key_norm.scale
    """
    return [*lines, *_joint(config, "double_blocks", sides), *_single(config, "single_blocks", single)]


# ------------------------------------------------------------------------------------------------------------ the list

FAMILIES = ("sd3", "qwen-image", "flux.1", "flux.2", "auraflow")


def prefixes(layout: str) -> tuple[str, ...]:
    """What may stand before every name in a file; the first is written. Official files of whole pipelines have one."""
    if layout == "stability":
        return ("model.diffusion_model.", "")
    return ("", "model.diffusion_model.") if layout == "flux" else ("",)
