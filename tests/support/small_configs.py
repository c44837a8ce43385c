"""Small configs for the tool, their sizes, and one as text."""

from __future__ import annotations

from typing import Any

from mmdit_cli.request.tool_config import ToolConfig, as_tool_config

D, COND, TEXT, IMAGE, BATCH = (12, 20), 6, 7, 9, 2


HEADS, DIM_HEAD = 2, 4


def config(run: dict[str, Any] | None = None, **model: Any) -> ToolConfig:
    base = {
        "variant": "generalized",
        "depth": 2,
        "modalities": {"text": {"dim": D[0]}, "image": {"dim": D[1]}},
        "dim_cond": COND,
        "heads": HEADS,
        "dim_head": DIM_HEAD,
    }
    run = {"batch_size": BATCH, "tokens": {"text": TEXT, "image": IMAGE}} | (run or {})
    return as_tool_config({"name": "small", "model": base | model, "run": run})


VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {},
    "discard": {"discard": ["text"]},
    "registers": {"register_tokens": {"image": 3}},
    "adaptive by token": {"attention": {"kind": "adaptive", "num_adaptive_weights": 3}},
    "adaptive by sample": {"attention": {"kind": "adaptive", "num_adaptive_weights": 3, "gating": "sample"}},
    "soft-clamped": {"attention": {"softclamp": 5.0}},
    "hyper-connections": {"residual": {"kind": "hyper_connections", "streams": 3}},
}


TINY = """
name: tiny
model:
  depth: 1
  modalities:
    text: {dim: 8}
    image: {dim: 12}
  dim_cond: 4
  heads: 1
  dim_head: 8
run:
  batch_size: 2
  tokens: {text: 3, image: 5}
"""
