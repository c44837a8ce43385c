"""Scenes as sound, and the judge that hears them: a note for each quarter, in reading order. The pitch tells of the
object's shape and the loudness, which varies, of its size; a quarter without an object is silent."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from mmdit_cli.toy.scenes.scene import EMPTY, QUARTERS, RADIUS, UNREAD, Scene
from mmdit_cli.toy.world import FRAME, SAMPLES

NOTE = SAMPLES // QUARTERS  # samples
PITCHES = {"low": 4, "middle": 8, "high": 16}  # periods in a note, by the object's shape
LOUDNESS = {"soft": (0.25, 0.45), "loud": (0.75, 1.0)}  # peaks, over the radii of small and of large objects
SILENT = 0.15  # a peak below it is none
EXPLAINED = 0.5  # of a note's energy, at least, for it to be heard
SILENCE = "silence"  # in words


def sound(scene: Scene) -> Tensor:
    """Sound `b n d`, `SAMPLES` samples in frames of `FRAME`, in [-1, 1]."""
    (low, high), loudness = torch.tensor(RADIUS).T, torch.tensor([*LOUDNESS.values()])  # of each size; s 2
    size = scene.size.clamp(min=0)
    share = (scene.radius - low[size]) / (high - low)[size]
    peak = torch.lerp(loudness[size, 0], loudness[size, 1], share) * (scene.shape != EMPTY)  # b 4
    notes = peak[..., None] * _waves()[scene.shape.clamp(min=0), 0]
    return notes.reshape(len(notes), SAMPLES // FRAME, FRAME)


def hear(data: Tensor) -> Tensor:
    """Shape and size by quarter, `b 4 2`, of sound `b n d`: EMPTY where it is silent, and UNREAD where no note explains
    it. Each pitch is fitted in any phase."""
    notes = data.float().reshape(len(data), QUARTERS, NOTE)
    waves = _waves()
    norms = waves.square().sum(dim=-1)  # k 2
    found = torch.einsum("bqn,kpn->bqkp", notes, waves) / norms.sqrt()  # on waves of norm 1, which are orthogonal
    energy, shape = found.square().sum(dim=-1).max(dim=-1)
    peak = (energy / norms.mean()).sqrt()
    size = (peak > (LOUDNESS["soft"][1] + LOUDNESS["loud"][0]) / 2).long()
    heard = energy >= EXPLAINED * notes.square().sum(dim=-1)
    values = torch.stack([shape, size], dim=-1).masked_fill(~heard[..., None], UNREAD)
    return values.masked_fill((peak < SILENT)[..., None], EMPTY)


def notes_in_words(values: Tensor) -> str:
    """What was heard of a scene, `4 2`: `soft low, -, loud high, -`; a question mark for what is no note."""
    pitches, loudness = [*PITCHES], [*LOUDNESS]
    notes = [f"{loudness[size]} {pitches[s]}" if s >= 0 else "-" if s == EMPTY else "?" for s, size in values.tolist()]
    return SILENCE if all(note == "-" for note in notes) else ", ".join(notes)


@cache
def _waves() -> Tensor:
    """Of each pitch the sine and the cosine, `k 2 n`, both swelling and fading."""
    time = (torch.arange(NOTE) + 0.5) / NOTE
    turns = 2 * math.pi * torch.tensor([*PITCHES.values()])[:, None] * time
    return torch.stack([turns.sin(), turns.cos()], dim=1) * (math.pi * time).sin()
