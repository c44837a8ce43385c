"""A small world: coloured shapes on a 16 x 16 picture and short tones, with captions that say what they are.

Everything is drawn on the fly from a seed, the same on every machine: a batch is a pure function of (seed, stream,
index), so that a run can stop and go on without keeping any generator's state.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from mmdit_cli.toy.data import UNSAID, Batch, Coverage, encode_words, hash_seed, named_value, share_right, word_ids

SIZE = 16  # pixels a side
SAMPLES, FRAME = 256, 16  # a tone is 256 samples, as 16 tokens of 16

# attribute -> value -> the wordings that name it
PICTURE: dict[str, dict[str, tuple[str, ...]]] = {
    "shape": {
        "circle": ("circle", "disc"),
        "square": ("square", "box"),
        "triangle": ("triangle",),
        "cross": ("cross", "plus"),
    },
    "colour": {name: (name,) for name in ("red", "green", "blue", "yellow", "magenta", "cyan")},
    "position": {
        "top left": ("top left", "upper left"),
        "top right": ("top right", "upper right"),
        "bottom left": ("bottom left", "lower left"),
        "bottom right": ("bottom right", "lower right"),
    },
    "size": {"small": ("small", "little", "tiny"), "large": ("large", "big")},
}
SOUND: dict[str, dict[str, tuple[str, ...]]] = {
    "pitch": {"low": ("low", "deep"), "middle": ("middle",), "high": ("high",), "shrill": ("shrill", "piercing")},
    "loudness": {"soft": ("soft", "quiet"), "loud": ("loud",)},
    "envelope": {"steady": ("steady", "even"), "fading": ("fading", "dying"), "rising": ("rising", "swelling")},
}
TABLES = {"image": PICTURE, "audio": SOUND}
PICTURE_WORDINGS = (
    "a {size} {colour} {shape} in the {position}",
    "{colour} {shape} , {size} , {position}",
    "in the {position} a {size} {shape} in {colour}",
    "there is a {colour} {shape} of {size} size at the {position}",
    "{position} : {size} {colour} {shape}",
    "the {shape} is {colour} and {size} and sits in the {position}",
)
SOUND_WORDINGS = (
    "with a {loudness} {pitch} tone , {envelope}",
    "and a {envelope} tone that is {loudness} and {pitch}",
    "sounding {pitch} , {loudness} , {envelope}",
)
IN_WORDS = {"image": "{size} {colour} {shape}, {position}", "audio": "{loudness} {pitch} tone, {envelope}"}
COLOURS = {
    "red": (1, -1, -1),
    "green": (-1, 1, -1),
    "blue": (-1, -1, 1),
    "yellow": (1, 1, -1),
    "magenta": (1, -1, 1),
    "cyan": (-1, 1, 1),
}
CYCLES = {"low": 4, "middle": 8, "high": 16, "shrill": 32}
AMPLITUDE = {"soft": 0.4, "loud": 1.0}
# Word to id; 0 pads. The same with tones and without, so that a model knows both.
VOCABULARY = word_ids(
    [*PICTURE_WORDINGS, *SOUND_WORDINGS],
    [w for table in TABLES.values() for v in table.values() for words in v.values() for w in words],
)
VOCABULARY_SIZE = len(VOCABULARY) + 1
MAX_WORDS = 24  # more than the longest caption of both has
# These combinations never appear in training: those whose value indexes, weighted, are a multiple of the last number.
# They are 26 of 192 pictures and 4 of 24 tones, spread evenly over the values of every attribute.
HELD_OUT = {"image": ((1, 3, 5, 2), 8), "audio": ((1, 3, 2), 6)}


class World:
    """The pictures, and the tones where `sound` is set; where it is an `echo`, every tone tells of its picture."""

    vocabulary = VOCABULARY

    def __init__(self, *, sound: bool, echo: bool = False) -> None:
        self.sound, self.echo = sound, echo

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("image", "audio") if self.sound else ("image",)

    def batch(self, size: int, *, seed: int, stream: int, index: int, held_out: bool = False) -> Batch:
        """`size` captions with their data; `held_out` asks for the combinations that training never shows."""
        generator = torch.Generator().manual_seed(hash_seed(seed, stream, index))
        attributes = {}
        for name in self.modalities:
            choices = split(name, held_out=held_out)
            attributes[name] = choices[torch.randint(len(choices), (size,), generator=generator)]
        if self.echo:
            attributes["audio"] = echo_of(attributes["image"])
        data = {name: renderings(name)[combination_index(name, a)] for name, a in attributes.items()}
        return Batch(self._captions(attributes, generator), data, attributes, self)

    def real(self, size: int, *, seed: int, stream: int, index: int) -> Batch:
        return self.batch(size, seed=seed, stream=stream, index=index)

    def asked(self, captions: Sequence[str]) -> Batch:
        attributes = {
            name: torch.tensor([[named_value(c, v.values()) for v in TABLES[name].values()] for c in captions])
            for name in self.modalities
        }
        data = {name: torch.zeros(len(captions), *renderings(name).shape[1:]) for name in self.modalities}
        return Batch(list(captions), data, attributes, self)

    def encode(self, captions: Sequence[str], length: int | None = None) -> tuple[Tensor, Tensor]:
        return encode_words(captions, VOCABULARY, length)

    def attributes(self, modality: str) -> tuple[str, ...]:
        return tuple(TABLES[modality])

    def read(self, modality: str, data: Tensor) -> Tensor:
        """The attributes `b a` of the rendering that is nearest to each sample by squared distance."""
        known = renderings(modality).flatten(1)
        return combinations(modality)[torch.cdist(data.float().flatten(1), known).argmin(dim=1)]

    def in_words(self, modality: str, data: Tensor) -> list[str]:
        table = TABLES[modality]
        rows = (
            [[*v][i] for v, i in zip(table.values(), row, strict=True)] for row in self.read(modality, data).tolist()
        )
        return [IN_WORDS[modality].format(**dict(zip(table, row, strict=True))) for row in rows]

    def check(self, batch: Batch, modality: str, data: Tensor) -> Tensor:
        wanted = batch.attributes[modality]
        return (self.read(modality, data) == wanted).float().masked_fill(wanted == UNSAID, torch.nan)

    def shares(self, batch: Batch, right: Mapping[str, Tensor]) -> dict[str, float]:
        return share_right(right)

    def belong_together(self, attributes: Mapping[str, Tensor]) -> Tensor | None:
        return (echo_of(attributes["image"]) == attributes["audio"]).all(dim=1) if self.echo else None

    def chance(self) -> dict[str, float]:
        return {name: 1 / len(combinations(name)) for name in self.modalities}

    def coverage(
        self, batch: Batch, data: Mapping[str, Tensor], again: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Coverage]:
        """Captions leave nothing free."""
        return {}

    def _captions(self, attributes: dict[str, Tensor], generator: torch.Generator) -> list[str]:
        size = len(attributes["image"])
        draws = torch.randint(1 << 16, (size, 2 + 8), generator=generator).tolist()
        rows = {name: values.tolist() for name, values in attributes.items()}
        captions = []
        for i in range(size):
            draw = iter(draws[i])
            wording = PICTURE_WORDINGS[next(draw) % len(PICTURE_WORDINGS)]
            if self.sound:
                wording += " " + SOUND_WORDINGS[next(draw) % len(SOUND_WORDINGS)]
            words = {}
            for name in self.modalities:
                for (attribute, values), value in zip(TABLES[name].items(), rows[name][i], strict=True):
                    wordings = list(values.values())[value]
                    words[attribute] = wordings[next(draw) % len(wordings)]
            captions.append(wording.format(**words))
        return captions


# ---------------------------------------------------------------------------------------------------------- rendering


@cache
def combinations(modality: str) -> Tensor:
    """Every combination of the modality's attribute values, `c a`."""
    return torch.tensor(list(itertools.product(*(range(len(values)) for values in TABLES[modality].values()))))


@cache
def split(modality: str, *, held_out: bool) -> Tensor:
    """The combinations that training shows, or those it never does."""
    every = combinations(modality)
    weights, modulus = HELD_OUT[modality]
    hidden = (every * torch.tensor(weights)).sum(dim=1) % modulus == 0
    return every[hidden if held_out else ~hidden]


def combination_index(modality: str, attributes: Tensor) -> Tensor:
    """Rows of `combinations(modality)` for attributes `b a`."""
    index = torch.zeros(len(attributes), dtype=torch.long)
    for column, values in enumerate(TABLES[modality].values()):
        index = index * len(values) + attributes[:, column]
    return index


def echo_of(image: Tensor) -> Tensor:
    """The tone's attributes `b a` that tell of a picture's: its pitch of the shape, its loudness of the size, and its
    envelope of the colour (two colours to an envelope)."""
    shape, colour, _, size = image.unbind(dim=1)
    return torch.stack([shape, size, colour // 2], dim=1)


@cache
def renderings(modality: str) -> Tensor:
    """The rendering of every combination: image `c 3 16 16`, audio `c 16 16`."""
    draw = _picture if modality == "image" else _tone
    return torch.stack([draw(row) for row in combinations(modality).tolist()])


def _picture(attributes: list[int]) -> Tensor:
    shape, colour, position, size = (list(v)[i] for v, i in zip(PICTURE.values(), attributes, strict=True))
    axis = torch.arange(SIZE) + 0.5
    y = axis[:, None] - (4 if position.startswith("top") else 12)
    x = axis[None, :] - (4 if position.endswith("left") else 12)
    radius = 2.5 if size == "small" else 3.5
    inside = {
        "circle": x**2 + y**2 <= radius**2 + 0.5,
        "square": (x.abs() <= radius) & (y.abs() <= radius),
        "triangle": (y.abs() <= radius) & (x.abs() <= (y + radius) / 2 + 0.5),
        "cross": ((x.abs() <= radius) & (y.abs() <= radius / 3)) | ((y.abs() <= radius) & (x.abs() <= radius / 3)),
    }[shape]
    return torch.where(inside, torch.tensor(COLOURS[colour])[:, None, None].float(), -torch.ones(3, 1, 1))


def _tone(attributes: list[int]) -> Tensor:
    pitch, loudness, envelope = (list(v)[i] for v, i in zip(SOUND.values(), attributes, strict=True))
    time = torch.arange(SAMPLES) / SAMPLES
    shape = {"steady": torch.ones(SAMPLES), "fading": 1 - time, "rising": time}[envelope]
    wave = AMPLITUDE[loudness] * shape * torch.sin(2 * math.pi * CYCLES[pitch] * time)
    return wave.view(SAMPLES // FRAME, FRAME)
