"""What diffusers calls the same in several families of networks: the lines of an image and a text, and the ends."""

ATTENTION = """
    .joint_attn.to_qkv.0.linear = .attn.add_q_proj + .attn.add_k_proj + .attn.add_v_proj
    .joint_attn.to_qkv.1.linear = .attn.to_q + .attn.to_k + .attn.to_v
    .joint_attn.to_out.0.linear = .attn.to_add_out
    .joint_attn.to_out.1.linear = .attn.to_out.0
    .joint_attn.q_norms.0 = .attn.norm_added_q
    .joint_attn.k_norms.0 = .attn.norm_added_k
    .joint_attn.q_norms.1 = .attn.norm_q
    .joint_attn.k_norms.1 = .attn.norm_k
"""
MODULATION = """
    .modulations.0.linear = .norm1_context.linear
    .modulations.1.linear = .norm1.linear
"""
FEEDFORWARD = """
    .feedforwards.0.proj_in = .ff_context.net.0.proj
    .feedforwards.0.proj_out = .ff_context.net.2
    .feedforwards.1.proj_in = .ff.net.0.proj
    .feedforwards.1.proj_out = .ff.net.2
"""
TIME = """
    time_embed.linear_in = .timestep_embedder.linear_1
    time_embed.linear_out = .timestep_embedder.linear_2
    guidance_embed.linear_in = .guidance_embedder.linear_1
    guidance_embed.linear_out = .guidance_embedder.linear_2
    pooled_embed.linear_in = .text_embedder.linear_1
    pooled_embed.linear_out = .text_embedder.linear_2
"""
