"""Published figures of accelerators, and the reading of `--card`.

Dense peaks are of matrix products with float32 accumulation; where a datasheet gives the figure with 2:4 sparsity, half
of it. Bandwidths of links are those of one direction, half of what a datasheet adds up of both: NVLink's and Infinity
Fabric's within a node, or PCI Express's where a card has nothing else; between nodes of the network adapters that the
maker's own systems give each card. Sources:

- a100, a100-40: NVIDIA A100 datasheet (SXM of 80 and of 40 GB; PCIe has the same peaks), DGX A100 datasheet (8 x 200
  Gb/s)
- h100, h100-pcie: NVIDIA H100 Tensor Core GPU Architecture whitepaper, table 2, and H100 datasheet (h100 is the SXM5
  card); DGX H100 datasheet (8 x 400 Gb/s)
- h200: NVIDIA H200 datasheet, SXM, whose TF32, BF16 and FP16 are given with sparsity; the chip is the h100's; DGX H200
- b200: NVIDIA Blackwell datasheet, a GPU of HGX B200; TF32, BF16 and FP16 are given with sparsity; DGX B200 user guide
  (1,440 GB and 14.4 TB/s of NVLink over 8 GPUs, 8 x 400 Gb/s)
- l40s: NVIDIA L40S datasheet (PCIe 4.0 x16)
- rtx4090: NVIDIA Ada GPU Architecture whitepaper, appendix A (PCIe 4.0 x16)
- mi300x: AMD Instinct MI300X and MI300X platform data sheets; fp32 is the matrix peak; network: AMD's ROCm guide to
  distributed inference on MI300X (a ConnectX-7 of 400 Gb/s for each of 8 cards)
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

from mmdit_cli.errors import UserError

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


class Published(NamedTuple):
    """Of a card: TFLOP/s in the order of PRECISIONS, GB of memory, and GB/s: of the memory, to others of the node, and
    to other nodes (None: the maker sells no such system)."""

    peaks: tuple[float, float, float, float]
    memory: float
    memory_rate: float
    within_node: float
    between_nodes: float | None


CARDS: dict[str, Published] = {
    "a100": Published((19.5, 156, 312, 312), 80, 2039, 300, 25),
    "a100-40": Published((19.5, 156, 312, 312), 40, 1555, 300, 25),
    "h100": Published((66.9, 494.7, 989.4, 989.4), 80, 3350, 450, 50),
    "h100-pcie": Published((51.2, 378, 756, 756), 80, 2000, 64, None),
    "h200": Published((67, 494.5, 989.5, 989.5), 141, 4800, 450, 50),
    "b200": Published((75, 1100, 2250, 2250), 180, 8000, 900, 50),
    "l40s": Published((91.6, 183, 362.05, 362.05), 48, 864, 32, None),
    "rtx4090": Published((82.6, 82.6, 165.2, 165.2), 24, 1008, 32, None),
    "mi300x": Published((163.4, 653.7, 1307.4, 1307.4), 192, 5300, 448, 50),
}
ALIASES = {"a100-80": "a100"}


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
    known = {_plain(card): card for card in CARDS} | {_plain(also): card for also, card in ALIASES.items()}
    if key not in known:
        near = get_close_matches(key, known, n=1)
        guess = f"; did you mean {known[near[0]]}?" if near else "."
        raise UserError(f"card {name.strip()!r} is not known{guess} Known: {', '.join(CARDS)}; or give --card-flops")
    if precision not in PRECISIONS:
        raise UserError(f"card precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    return Card(known[key], precision, round(CARDS[known[key]].peaks[PRECISIONS.index(precision)] * 1e12))


def _plain(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign.isalnum())
