"""What the toy's data sets have in common: batches of captions with what they describe, and a judge that reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

NULL = "<none>"  # the caption that says nothing, for classifier-free guidance
UNSAID = -1  # in place of a value index: the caption does not say


class ToyData(Protocol):
    """What train-toy trains on, and what reads its samples back."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """What is drawn, beside the text."""

    def batch(self, size: int, *, seed: int, stream: int, index: int, held_out: bool = False) -> Batch:
        """`size` captions with their data, a pure function of the arguments.

        Args:
            held_out: what training never shows; what that is, the data set says.
        """

    def real(self, size: int, *, seed: int, stream: int, index: int) -> Batch:
        """Real data for the judge to be tested on: `size` samples, or as many as there are."""

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """The words that captions may have, and their ids."""

    def asked(self, captions: Sequence[str]) -> Batch:
        """Captions that someone wrote, as far as the judge understands what they ask for; their `data` are zeros, of
        which only the shapes mean something."""

    def encode(self, captions: Sequence[str], length: int | None = None) -> tuple[Tensor, Tensor]:
        """Word ids `b n`, padded with 0 to `length` or to the longest caption, and the mask of real words."""

    def attributes(self, modality: str) -> tuple[str, ...]:
        """The names of what a sample of the modality shows, in the order of `read`."""

    def read(self, modality: str, data: Tensor) -> Tensor:
        """The judge: value indexes `b a`, one for each attribute. The data is finite."""

    def in_words(self, modality: str, data: Tensor) -> list[str]:
        """What the judge reads of each sample: `large red square, top left`. The data is finite."""

    def check(self, batch: Batch, modality: str, data: Tensor) -> Tensor:
        """`b a`, whether each of `attributes` is as the batch's captions ask for in data that the judge reads: 1 or 0,
        or NaN where a caption does not say. The data is finite."""

    def shares(self, batch: Batch, right: Mapping[str, Tensor]) -> dict[str, float]:
        """The accuracy, by what the data set tells apart, of samples that are right or not: `b` bool by modality."""

    def belong_together(self, attributes: Mapping[str, Tensor]) -> Tensor | None:
        """`b` bool, whether the modalities of a sample tell of the same, from what is read of each (`b a`); None where
        they have nothing to do with each other."""

    def chance(self) -> dict[str, float]:
        """The accuracy of a guesser who knows no caption, by the names of `shares`."""

    def coverage(
        self, batch: Batch, data: Mapping[str, Tensor], again: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Coverage]:
        """How far samples spread over what captions leave free, by attribute. Empty where captions name all.

        Args:
            data: what was drawn, finite.
            again: draws for the same captions once more.
        """


@dataclass(frozen=True)
class Coverage:
    """How far samples spread over what captions leave free: `drawn` is 1 where they do as true data does; beside it
    what one sample for every caption would have (`chance`), and as many `real` ones. `repeated` is how often two
    samples of one caption have the same value, 1 where each caption has one sample; beside it that of real data."""

    drawn: float
    chance: float
    real: float
    repeated: float | None = None
    real_repeated: float | None = None


@dataclass(frozen=True)
class Batch:
    """Captions and what they describe. `attributes` are value indexes by modality, `b a` in the source's order; of
    captions that someone wrote they may be `UNSAID`."""

    captions: list[str]
    data: dict[str, Tensor]  # in [-1, 1]; a picture is b c h w, a tone b n d
    attributes: dict[str, Tensor]
    source: ToyData


def share_right(right: Mapping[str, Tensor]) -> dict[str, float]:
    """The accuracy by modality alone."""
    return {name: each.float().mean().item() for name, each in right.items()}


def named_value(caption: str, wordings: Iterable[Iterable[str]]) -> int:
    """Which value of an attribute a caption names, each by any of its wordings; `UNSAID` where it names none, or
    several."""
    named = [
        i for i, each in enumerate(wordings) if any(re.search(rf"(?<!\S){re.escape(w)}(?!\S)", caption) for w in each)
    ]
    return named[0] if len(named) == 1 else UNSAID


def word_ids(*texts: Iterable[str]) -> dict[str, int]:
    """Word to id, sorted, beginning with `NULL` as 1: 0 pads. Fields in braces are no words."""
    words = {word for part in texts for text in part for word in text.split() if "{" not in word}
    return {word: index for index, word in enumerate([NULL, *sorted(words)], start=1)}


def encode_words(captions: Sequence[str], known: Mapping[str, int], length: int | None) -> tuple[Tensor, Tensor]:
    """`ToyData.encode` with the vocabulary `known`."""
    rows = [[known[word] for word in caption.split()] for caption in captions]
    length = length or max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return ids, ids != 0


def hash_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers (the splitmix64 mixer of Steele et al. 2014)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
