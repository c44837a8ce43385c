"""`train.data: scenes`: what train-toy trains on and scores by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mmdit_cli.toy.data import UNSAID, Batch, Coverage, encode_words, hash_seed
from mmdit_cli.toy.scenes.caption_parser import NOT_UNDERSTOOD, understood
from mmdit_cli.toy.scenes.captions import ATTRIBUTES, PLACE_WORDS, WORDS, Wanted, check, choose_named, colourless, write
from mmdit_cli.toy.scenes.notes import hear, notes_in_words, sound
from mmdit_cli.toy.scenes.oracle import NO_OBJECT, objects_in_words, read
from mmdit_cli.toy.scenes.renderer import picture
from mmdit_cli.toy.scenes.scene import BINDING, CATEGORIES, COLOURED, POSITION, QUARTERS, UNREAD, draw_scenes
from mmdit_cli.toy.scenes.spread import coverage, coverage_of_one, really_repeated, repeated
from mmdit_cli.toy.world import FRAME, SAMPLES

HELD_OUT = (COLOURED, POSITION, BINDING)  # the categories that have something to hold out
MEAN, SOUND = "mean", "sound"
HEARD = [0, 2]  # of shape, colour and size, what sound tells
GUESSES = 6000  # scenes by which chance is known


@dataclass(frozen=True)
class SceneBatch(Batch):
    """`attributes` are those that the scenes show, by quarter: shape, colour and size, flattened; `wanted` is what the
    captions ask for. Of captions that someone wrote there are no scenes."""

    wanted: Wanted


class Scenes:
    """Pictures `b 3 size size` of scenes, whose categories take turns in every batch; where `sound` is set, also notes
    that tell of the objects' shapes, sizes and places."""

    vocabulary = WORDS

    def __init__(self, size: int, *, sound: bool = False) -> None:
        self.size, self.sound = size, sound

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("image", "audio") if self.sound else ("image",)

    def batch(self, size: int, *, seed: int, stream: int, index: int, held_out: bool = False) -> SceneBatch:
        """`held_out` asks for bindings and relations that training never shows; single objects, pairs and counts have
        none."""
        generator = torch.Generator().manual_seed(hash_seed(seed, stream, index))
        categories = torch.tensor(HELD_OUT if held_out else range(len(CATEGORIES)))
        category = categories[(torch.arange(size) + index * size) % len(categories)]
        scene, quarter = draw_scenes(category, generator, held_out=held_out)
        wanted = choose_named(category, scene, quarter, generator)
        data, shown = {"image": picture(scene, self.size)}, {"image": scene.values.flatten(1)}
        if self.sound:
            data["audio"], shown["audio"] = sound(scene), scene.values[..., HEARD].flatten(1)
        return SceneBatch(write(wanted, generator), data, shown, self, wanted)

    def real(self, size: int, *, seed: int, stream: int, index: int) -> SceneBatch:
        return self.batch(size, seed=seed, stream=stream, index=index)

    def asked(self, captions: Sequence[str]) -> SceneBatch:
        b = len(captions)
        shown = {"image": torch.full((b, QUARTERS * 3), UNSAID)}
        data = {"image": torch.zeros(b, 3, self.size, self.size)}
        if self.sound:
            shown["audio"] = torch.full((b, QUARTERS * len(HEARD)), UNSAID)
            data["audio"] = torch.zeros(b, SAMPLES // FRAME, FRAME)
        return SceneBatch(list(captions), data, shown, self, understood(captions))

    def encode(self, captions: Sequence[str], length: int | None = None) -> tuple[Tensor, Tensor]:
        return encode_words(captions, WORDS, length)

    def attributes(self, modality: str) -> tuple[str, ...]:
        return ATTRIBUTES

    def read(self, modality: str, data: Tensor) -> Tensor:
        """Shape, colour and size by quarter, `b 12`, as a batch's `attributes`; of sound shape and size, `b 8`."""
        return (hear(data) if modality == "audio" else read(data).values).flatten(1)

    def in_words(self, modality: str, data: Tensor) -> list[str]:
        """The objects by quarter, each with its place; of sound the notes."""
        if modality == "audio":
            return [notes_in_words(values) for values in hear(data)]
        rows = (
            [f"{words} {first}" for words, (first, *_) in zip(each, PLACE_WORDS, strict=True) if words]
            for each in map(objects_in_words, read(data).values)
        )
        return [", ".join(row) or NO_OBJECT for row in rows]

    def check(self, batch: Batch, modality: str, data: Tensor) -> Tensor:
        """NaN throughout where a caption is not understood; of sound also for colours, which it does not tell."""
        wanted = _wanted(batch)
        unknown = wanted.category[:, None] == NOT_UNDERSTOOD
        if modality == "audio":
            shape, size = hear(data).unbind(dim=-1)
            return check(colourless(wanted), torch.stack([shape, shape, size], dim=-1)).masked_fill(unknown, torch.nan)
        return check(wanted, read(data).values).masked_fill(unknown, torch.nan)

    def shares(self, batch: Batch, right: Mapping[str, Tensor]) -> dict[str, float]:
        """Of pictures by category, of those in the batch, and their mean; of sound all together."""
        heard = {SOUND: right["audio"].float().mean().item()} if self.sound else {}
        return by_category(_wanted(batch).category, right["image"]) | heard

    def belong_together(self, attributes: Mapping[str, Tensor]) -> Tensor | None:
        if not self.sound:
            return None
        seen, heard = (attributes[name].unflatten(1, (QUARTERS, -1)) for name in ("image", "audio"))
        return ((seen[..., HEARD] == heard) & (heard != UNREAD)).flatten(1).all(dim=1)

    def chance(self) -> dict[str, float]:
        """Of a guesser who knows a caption's category, and draws the scene of another caption of it."""
        return {name: share for name, share in _chance().items() if self.sound or name != SOUND}

    def coverage(
        self, batch: Batch, data: Mapping[str, Tensor], again: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Coverage]:
        wanted, drawn = _wanted(batch), read(data["image"])
        shares, real = coverage(wanted, drawn), coverage(wanted, read(batch.data["image"]))
        alike, really = repeated(wanted, drawn, read(again()["image"])), really_repeated()
        of_one = coverage_of_one()
        return {n: Coverage(share, of_one[n], real[n], alike[n], really[n]) for n, share in shares.items()}


def by_category(category: Tensor, right: Tensor) -> dict[str, float]:
    """The share of right samples `b` of each category, and the mean of these."""
    shares = {CATEGORIES[index]: right[category == index].float().mean().item() for index in category.unique().tolist()}
    return {**shares, MEAN: sum(shares.values()) / len(shares)}


@cache
def _chance() -> dict[str, float]:
    batch = Scenes(16).batch(GUESSES, seed=0, stream=0, index=0)
    values = batch.attributes["image"].unflatten(1, (-1, 3))
    guesses = values.roll(len(CATEGORIES), dims=0)  # the next caption of the same category
    seen, heard = ((check(each, guesses) != 0).all(dim=1) for each in (batch.wanted, colourless(batch.wanted)))
    return by_category(batch.wanted.category, seen) | {SOUND: heard.float().mean().item()}


def _wanted(batch: Batch) -> Wanted:
    assert isinstance(batch, SceneBatch)  # these are the only ones that Scenes makes
    return batch.wanted
