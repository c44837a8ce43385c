"""Real data: handwritten digits of 8 x 8 pixels that ship with scikit-learn, under captions that name them.

The pictures are Alpaydin and Kaynak's (1998), of the UCI repository. They are split by their place in each digit's
order: of six in a row, three are for training, two for the judge, a support vector classifier whose pictures the model
never sees, and the last is for testing that judge. Held out are wordings: captions whose words training shows, in an
order that it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mmdit_cli.errors import UserError
from mmdit_cli.toy.data import UNSAID, Batch, Coverage, encode_words, hash_seed, named_value, share_right, word_ids

SIZE, LEVELS = 8, 16  # pixels a side; ink is counted from 0 to 16
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDINGS = (
    "{digit}",
    "a {digit}",
    "the digit {digit}",
    "a handwritten {digit}",
    "handwritten number {digit} , please",
    "the number {digit} , written by hand",
    "please write a {digit}",
    "this is a picture of the digit {digit}",
)
HELD_OUT_WORDINGS = (
    "a picture of a {digit}",
    "please write the number {digit} by hand",
    "the handwritten digit {digit} , please",
)
PARTS = {"training": (0, 1, 2), "judging": (3, 4), "testing": (5,)}  # places in a row of six
ROW = 6
# A radial basis of this width on ink counts is the one of scikit-learn's own example with these digits.
GAMMA = 0.001

VOCABULARY = word_ids(DIGITS, WORDINGS)
VOCABULARY_SIZE = len(VOCABULARY) + 1
MAX_WORDS = 12  # more than the longest caption has


class Digits:
    """Handwritten digits as `mmdit_cli.toy.data.ToyData`: pictures `b 1 8 8` in [-1, 1], one attribute, `digit`.

    Raises:
        UserError: scikit-learn is not installed; the message says how to get it.
    """

    vocabulary = VOCABULARY

    def __init__(self) -> None:
        pictures, labels = load()
        self.parts = parts_of(labels)
        self._pictures, self._labels = pictures, labels
        self.judge = _fitted()

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("image",)

    def batch(self, size: int, *, seed: int, stream: int, index: int, held_out: bool = False) -> Batch:
        """Pictures of the training part; `held_out` asks for captions in wordings that training never shows."""
        generator = torch.Generator().manual_seed(hash_seed(seed, stream, index))
        rows = self.parts["training"]
        rows = rows[torch.randint(len(rows), (size,), generator=generator)]
        return self._captioned(rows, generator, HELD_OUT_WORDINGS if held_out else WORDINGS)

    def real(self, size: int, *, seed: int, stream: int, index: int) -> Batch:
        """The pictures that neither the model nor the judge was fitted on, each once."""
        generator = torch.Generator().manual_seed(hash_seed(seed, stream, index))
        rows = self.parts["testing"][:size]
        return self._captioned(rows, generator, WORDINGS)

    def asked(self, captions: Sequence[str]) -> Batch:
        labels = torch.tensor([[named_value(caption, zip(DIGITS))] for caption in captions])
        return Batch(list(captions), {"image": torch.zeros(len(captions), 1, SIZE, SIZE)}, {"image": labels}, self)

    def encode(self, captions: Sequence[str], length: int | None = None) -> tuple[Tensor, Tensor]:
        return encode_words(captions, VOCABULARY, length)

    def attributes(self, modality: str) -> tuple[str, ...]:
        return ("digit",)

    def read(self, modality: str, data: Tensor) -> Tensor:
        """The digits `b 1` that the judge sees in pictures `b 1 8 8`."""
        return torch.from_numpy(self.judge.predict(_ink(data))).long()[:, None]

    def in_words(self, modality: str, data: Tensor) -> list[str]:
        return [DIGITS[digit] for (digit,) in self.read(modality, data).tolist()]

    def check(self, batch: Batch, modality: str, data: Tensor) -> Tensor:
        wanted = batch.attributes[modality]
        return (self.read(modality, data) == wanted).float().masked_fill(wanted == UNSAID, torch.nan)

    def shares(self, batch: Batch, right: Mapping[str, Tensor]) -> dict[str, float]:
        return share_right(right)

    def belong_together(self, attributes: Mapping[str, Tensor]) -> None:
        """There is one modality alone."""

    def chance(self) -> dict[str, float]:
        return {"image": 1 / len(DIGITS)}

    def coverage(
        self, batch: Batch, data: Mapping[str, Tensor], again: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Coverage]:
        """How the digits are written is free, and no judge here tells one hand from another."""
        return {}

    def _captioned(self, rows: Tensor, generator: torch.Generator, wordings: Sequence[str]) -> Batch:
        labels = self._labels[rows]
        draws = torch.randint(len(wordings), (len(rows),), generator=generator).tolist()
        captions = [
            wordings[draw].format(digit=DIGITS[label]) for draw, label in zip(draws, labels.tolist(), strict=True)
        ]
        return Batch(captions, {"image": self._pictures[rows]}, {"image": labels[:, None]}, self)


@cache
def load() -> tuple[Tensor, Tensor]:
    """All 1797 pictures `b 1 8 8` in [-1, 1], and the digits `b` that they show.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("train.data: digits needs scikit-learn: pip install 'mmdit-cli[digits]'") from None
    ink, labels = load_digits(return_X_y=True)
    pictures = torch.from_numpy(ink).float().view(-1, 1, SIZE, SIZE) * (2 / LEVELS) - 1
    return pictures, torch.from_numpy(labels).long()


def parts_of(labels: Tensor) -> dict[str, Tensor]:
    """The places of each part's pictures in the data set, sorted. No picture is in two parts."""
    rank = torch.empty_like(labels)  # how many pictures of the same digit came before
    for digit in range(len(DIGITS)):
        of_digit = labels == digit
        rank[of_digit] = torch.arange(int(of_digit.sum()))
    return {
        name: torch.isin(rank % ROW, torch.tensor(places)).nonzero()[:, 0].contiguous()
        for name, places in PARTS.items()
    }


@cache
def _fitted() -> Any:
    """The judge, fitted on its part alone. It has no random state."""
    from sklearn.svm import SVC

    pictures, labels = load()
    rows = parts_of(labels)["judging"]
    return SVC(gamma=GAMMA).fit(_ink(pictures[rows]), labels[rows].numpy())


def _ink(pictures: Tensor) -> Any:
    """Rows of ink counts, as the data set has them."""
    return ((pictures.double().flatten(1) + 1) * (LEVELS / 2)).numpy()
