"""Published peaks of accelerators, and the reading of `--card`.

Dense peaks, in TFLOP/s, of matrix products with float32 accumulation; where a datasheet gives the figure with 2:4
sparsity, half of it. Sources:

- a100: NVIDIA A100 datasheet (SXM and PCIe have the same peaks)
- h100, h100-pcie: NVIDIA H100 Tensor Core GPU Architecture whitepaper, table 2 (h100 is the SXM5 card)
- h200: NVIDIA H200 datasheet, SXM, whose TF32, BF16 and FP16 are given with sparsity; the chip is the h100's
- b200: NVIDIA Blackwell datasheet, a GPU of HGX B200; TF32, BF16 and FP16 are given with sparsity
- l40s: NVIDIA L40S datasheet
- rtx4090: NVIDIA Ada GPU Architecture whitepaper, appendix A
- mi300x: AMD Instinct MI300X data sheet; fp32 is the matrix peak
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from mmdit_cli.errors import UserError

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

# name -> TFLOP/s in the order of PRECISIONS
CARDS: dict[str, tuple[float, float, float, float]] = {
    "a100": (19.5, 156, 312, 312),
    "h100": (66.9, 494.7, 989.4, 989.4),
    "h100-pcie": (51.2, 378, 756, 756),
    "h200": (67, 494.5, 989.5, 989.5),
    "b200": (75, 1100, 2250, 2250),
    "l40s": (91.6, 183, 362.05, 362.05),
    "rtx4090": (82.6, 82.6, 165.2, 165.2),
    "mi300x": (163.4, 653.7, 1307.4, 1307.4),
}


@dataclass(frozen=True)
class Card:
    """An accelerator as a budget sees it: dense FLOP/s at one precision."""

    name: str
    precision: str
    flops_per_s: float


def find_card(text: str, dtype: str) -> Card:
    """A card by its name, `h100`, at the peak of `dtype`, or of the precision that is named, `h100:tf32`.

    Upper case, blanks and dashes don't matter: `RTX 4090`.

    Raises:
        UserError: no such card or precision; the message lists those there are.
    """
    name, _, precision = text.partition(":")
    precision = precision.strip().lower() or dtype
    key = _plain(name)
    known = {_plain(card): card for card in CARDS}
    if key not in known:
        near = get_close_matches(key, known, n=1)
        guess = f"; did you mean {known[near[0]]}?" if near else ""
        raise UserError(f"card {name.strip()!r} is not known{guess} Known: {', '.join(CARDS)}; or give --card-flops")
    if precision not in PRECISIONS:
        raise UserError(f"card precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    return Card(known[key], precision, round(CARDS[known[key]][PRECISIONS.index(precision)] * 1e12))


def _plain(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign.isalnum())
