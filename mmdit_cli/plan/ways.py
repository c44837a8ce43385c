"""`--parallel`: the ways to cut a network that a plan tries for each number of GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from mmdit.parallel import MeshLayout
from mmdit_cli.errors import UserError
from mmdit_cli.request.spreading import Spreading, read_spreading

ALONE = "one GPU"
MOST_GPUS = 1 << 17


def read_ways(text: str) -> list[Spreading]:
    """Every data way of `fsdp,hsdp,tp=2,tp=2+ulysses=4` alone and with each of the others, fsdp where there is none;
    ddp alone, where there are others.

    Raises:
        UserError: it is something else.
    """
    words = [word.strip().replace("+", ",") for word in text.split(",")]
    data = [word for word in words if read_spreading(word).tensor * read_spreading(word).context == 1] or ["fsdp"]
    others = ["", *(word for word in words if word not in data)]
    texts = dict.fromkeys(",".join(filter(None, way)) for way in product(data, others))
    return [read_spreading(text) for text in texts if not (text.startswith("ddp,") and len(data) > 1)]


def read_gpus(text: str) -> list[int]:
    """`8,64,1024` in ascending order.

    Raises:
        UserError: a number is none.
    """
    found = set()
    for word in text.split(","):
        if not (word.strip().isascii() and word.strip().isdecimal() and 0 < int(word) <= MOST_GPUS):
            expected = f"expected numbers from 1 to {MOST_GPUS}, such as 8,64,1024"
            raise UserError(f"--gpus {text}: {expected}, got {word.strip()!r}")
        found.add(int(word))
    return sorted(found)


def layouts(ways: Sequence[Spreading], gpus: int, gpus_per_node: int) -> dict[str, MeshLayout | str]:
    """By what one would type, the layout of each way, or why there is none; of several that are alike, the first. A way
    for more GPUs, or for more nodes, is left out where there are others.

    Raises:
        UserError: none is for so few GPUs.
    """
    found: dict[str, MeshLayout | str] = {}
    nodes = -(-gpus // gpus_per_node)
    for way in ways:
        copies = way.replicas or 1
        if way.tensor * way.context * copies > gpus or (way.data == "hsdp" and way.replicas is None and nodes == 1):
            continue
        try:
            cut = MeshLayout(**way.over(gpus, nodes))
            layout: MeshLayout | str = _across(cut, gpus, gpus_per_node) or cut
        except UserError:
            layout = f"{gpus} GPUs in {nodes} {'node' if nodes == 1 else 'nodes'} can't be divided so"
        if layout not in found.values() or isinstance(layout, str):
            found[ALONE if gpus == 1 else way.text] = layout
    if not found:
        asked = ", ".join(way.text for way in ways)
        raise UserError(f"--gpus {gpus}: none of --parallel {asked} is for so few GPUs, {gpus_per_node} a node")
    return found


def _across(layout: MeshLayout, gpus: int, gpus_per_node: int) -> str:
    """Why the layout is not planned: of its groups, some would lie in one node and some across two, and all would wait
    for the slowest. Empty where they do not."""
    groups = [layout.tensor * layout.context, *([gpus // layout.replicate] if layout.replicate > 1 else [])]
    uneven = [n for n in groups if gpus > gpus_per_node and n % gpus_per_node and gpus_per_node % n]
    return f"groups of {uneven[0]} GPUs do not fill nodes of {gpus_per_node}" if uneven else ""
