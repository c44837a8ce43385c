"""The bits of a network's outputs and gradients."""

from __future__ import annotations

import torch

from benchmarks.numerics.variants import arguments, build


def bits_of(variant: str, dtype: torch.dtype) -> bytes:
    """Those of the outputs and all gradients of a network built, called and differentiated from one seed."""
    torch.manual_seed(7)
    net, given = build(variant, 1).to(dtype), arguments(variant, dtype)
    outs = [out for out in net(**given) if out is not None]
    sum(out.float().square().mean() for out in outs).backward()
    values = [*outs, *(p.grad for p in net.parameters() if p.grad is not None)]
    return b"".join(x.detach().contiguous().view(torch.uint8).numpy().tobytes() for x in values)
