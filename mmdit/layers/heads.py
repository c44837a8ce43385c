"""How the three sizes of a multi-head attention decide one another."""

from __future__ import annotations

DEFAULT_HEADS = 8
DEFAULT_DIM_HEAD = 64


def resolve_heads(*, dim_joint_attn: int | None, heads: int | None, dim_head: int | None) -> tuple[int, int]:
    """`(heads, dim_head)` with `heads * dim_head == dim_joint_attn`.

    Any two of the three decide the third; what is still open falls back to `dim_head=64`, then to `heads=8`.

    Raises:
        ValueError: the three contradict one another, or `dim_joint_attn` can't be divided into heads.
    """
    for name, value in (("dim_joint_attn", dim_joint_attn), ("heads", heads), ("dim_head", dim_head)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if dim_joint_attn is None:
        return heads or DEFAULT_HEADS, dim_head or DEFAULT_DIM_HEAD
    if heads is not None and dim_head is not None:
        if heads * dim_head != dim_joint_attn:
            raise ValueError(
                f"dim_joint_attn must be heads * dim_head = {heads} * {dim_head} = {heads * dim_head}, "
                f"got {dim_joint_attn}"
            )
        return heads, dim_head
    name, divisor = ("heads", heads) if heads is not None else ("dim_head", dim_head or DEFAULT_DIM_HEAD)
    if dim_joint_attn % divisor:
        raise ValueError(f"dim_joint_attn must be a multiple of {name}={divisor}, got {dim_joint_attn}")
    other = dim_joint_attn // divisor
    return (divisor, other) if heads is not None else (other, divisor)
