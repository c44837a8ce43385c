"""The machines that a plan is for: cards, and how they are joined."""

from __future__ import annotations

from dataclasses import dataclass

from mmdit_cli.errors import UserError
from mmdit_cli.request.cards import CARDS, find_card
from mmdit_cli.request.numbers import read_number, read_size

OWN = "own card"


@dataclass(frozen=True)
class Machine:
    """Nodes of so many cards. `flops_per_s`: a card's dense peak at `precision`. `memory` in bytes. In bytes/s:
    `memory_bytes_per_s` of its memory; `within_node` and `between_nodes` of what a card sends there, in one direction.
    What is not known is None."""

    card: str
    precision: str
    flops_per_s: float
    memory: int
    memory_bytes_per_s: float | None
    within_node: float | None
    between_nodes: float | None
    gpus_per_node: int

    def check(self, gpus: int) -> None:
        """Raises UserError where the plan for so many cards needs a bandwidth that is not known."""
        needed = {"--within-node": (1, self.within_node), "--between-nodes": (self.gpus_per_node, self.between_nodes)}
        for option, (alone, rate) in needed.items():
            if gpus > alone and rate is None:
                raise UserError(
                    f"{gpus} of {self.card}: how fast they speak with one another {WHERE[option]} is not known; "
                    f"give {option} in bytes/s, such as 25e9"
                )


WHERE = {"--within-node": "in a node", "--between-nodes": "between nodes"}


@dataclass(frozen=True)
class OwnNumbers:
    """What a user says of cards, as it was typed; it comes before what is published."""

    card_flops: str | None = None
    card_memory: str | None = None
    within_node: str | None = None
    between_nodes: str | None = None


def read_machine(card: str | None, own: OwnNumbers, gpus_per_node: int, dtype: str) -> Machine:
    """A card by its name, or by its own numbers.

    Raises:
        UserError: no such card, a number is none, or what a card of one's own needs is missing.
    """
    if card is None and (own.card_flops is None or own.card_memory is None):
        raise UserError(
            f"of which card? Give --card {', '.join(CARDS)}; or of your own --card-flops 989e12 --card-memory 80GB"
        )
    if card is not None and own.card_flops is not None:
        raise UserError("--card and --card-flops: give one of them")
    if card is None:
        name, precision, flops = OWN, dtype, read_number(own.card_flops or "", "--card-flops")
        memory, memory_rate, within, between = 0.0, None, None, None
    else:
        found = find_card(card, dtype)
        name, precision, flops = found.name, found.precision, found.flops_per_s
        published = CARDS[name]
        memory, memory_rate, within = published.memory * 1e9, published.memory_rate * 1e9, published.within_node * 1e9
        between = None if published.between_nodes is None else published.between_nodes * 1e9
    return Machine(
        card=name,
        precision=precision,
        flops_per_s=flops,
        memory=int(memory) if own.card_memory is None else read_size(own.card_memory, "--card-memory"),
        memory_bytes_per_s=memory_rate,
        within_node=within if own.within_node is None else read_number(own.within_node, "--within-node"),
        between_nodes=between if own.between_nodes is None else read_number(own.between_nodes, "--between-nodes"),
        gpus_per_node=gpus_per_node,
    )
