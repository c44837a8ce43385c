"""The document of the numerics benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.numerics.rounding import DTYPES, SEEDS, Row, bound
from benchmarks.numerics.variants import DIM, LENGTHS

ABOUT = """# How exact it is

Written by `python -m benchmarks.numerics --write docs/reports/numerics.md` with torch {version} on the CPU;
`tests/benchmarks/test_numerics.py` holds the bounds, and with `tests/mmdit/networks/test_empty_inputs.py` and
`test_gradients.py` beside it what is said below them.

The relative error of a stack's outputs is the norm of the difference over the norm of the output: the largest of
{seeds} seeds, beside the bound. Each network ({dim} wide, {tokens} tokens, weights away from where they start) is run
in float64 with the very weights and inputs that the narrow dtype holds, so that only its arithmetic differs.

The bound is `c * eps * (1 + sqrt(layers))`, with c = 1 in bfloat16 and float16 and 3 in float32, whose products also
round every term of a sum. Roundings are random, and the residual adds up one for each layer. Unconstrained
hyper-connections amplify what earlier layers have rounded, so their bound also grows by `1 + layers / 16`; manifold
ones don't.
"""


ELSE = """
Beside these:

- Logits of 10,000 give the value of the largest, in every dtype. In float16 logits themselves end at 65,504: the fused
  attention keeps them in float32, the explicit one (`flash_attn=False`) needs a qk norm or a soft clamp beyond that.
- With 65,536 keys for one block of queries, masked or not, attention stays within the bound of one layer.
- A modality of no tokens, or masked whole, is as if it were not there; a sample masked whole changes no other; a batch
  of 0 gives a batch of 0. Gradients are finite in all of these.
- The same seed on the same machine gives the same bits, and nothing needs an operator that is not deterministic.
- Gradients are the numerical ones for every kind of block, and so are second derivatives where attention is explicit;
  torch's fused attention on the CPU has none and says so.
"""


def document(rows: Sequence[Row]) -> str:
    """The rows as Markdown, between what was done and what holds beside it."""
    lines = [ABOUT.format(version=torch.__version__, seeds=SEEDS, dim=DIM, tokens=sum(LENGTHS))]
    lines += ["| variant | layers | " + " | ".join(f"{name} | bound" for name in DTYPES) + " |"]
    lines += ["| --- " * (2 + 2 * len(DTYPES)) + "|"]
    for row in rows:
        cells = (
            f"{row.errors[name]:.1e} | {bound(row.variant, row.depth, dtype):.1e}" for name, dtype in DTYPES.items()
        )
        lines.append(f"| {row.variant} | {row.depth} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" + ELSE
