"""Samples one by one, for pages and programs: captions, what the oracle reads and says, pictures and sounds."""

from __future__ import annotations

import io
import math
import wave
from base64 import b64encode
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mmdit.weights.atomic import write_atomic
from mmdit_cli.toy.evaluation import Samples

RATE, REPEATED = 4000, 8  # samples/s of a sound, and how often it is repeated: one alone is over before it is heard
PAUSE = 1000  # samples between two tones


@dataclass(frozen=True)
class ShownSample:
    """By modality: what the oracle `reads`; `verdicts`, whether each attribute is as asked for, 1 or 0, or None where
    the caption does not say; `media`, a PNG or a WAV as a `data:` address."""

    caption: str
    reads: dict[str, str]
    verdicts: dict[str, dict[str, float | None]]
    media: dict[str, str]


def shown_samples(samples: Samples) -> list[ShownSample]:
    """Each of them."""
    names = samples.batch.source.attributes
    rows = []
    for index, caption in enumerate(samples.batch.captions):
        hits = {
            name: [None if math.isnan(x) else x for x in each[index].tolist()] for name, each in samples.hits.items()
        }
        rows.append(
            ShownSample(
                caption,
                {name: each[index] for name, each in samples.reads.items()},
                {name: dict(zip(names(name), each, strict=True)) for name, each in hits.items()},
                {name: _png(x[index]) if x.ndim == 4 else _wav(x[index]) for name, x in samples.data.items()},
            )
        )
    return rows


def samples_document(samples: Samples, step: int) -> dict[str, Any]:
    """What a run keeps of those it shows."""
    return {"step": step, "samples": [asdict(each) for each in shown_samples(samples)]}


def _png(x: Tensor) -> str:
    """A picture `3 h w` or `1 h w` in [-1, 1]."""
    from matplotlib.image import imsave

    pixels = ((x.nan_to_num() + 1) / 2).clamp(0, 1).expand(3, -1, -1)  # one channel is grey
    file = io.BytesIO()
    imsave(file, pixels.permute(1, 2, 0).contiguous().numpy(), format="png")
    return _address("image/png", file)


def _wav(x: Tensor) -> str:
    """A tone `n d` in [-1, 1], repeated."""
    return _address("audio/wav", tones_file(x[None]))


def tones_file(x: Tensor) -> io.BytesIO:
    """A WAV of tones `b n d` in [-1, 1] one after the other, each repeated, with a pause between two."""
    tones = np.tile(x.nan_to_num().flatten(1).clamp(-1, 1).numpy(), REPEATED)
    tone = np.pad(tones, ((0, 0), (0, PAUSE))).flatten()[:-PAUSE]
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes((tone * 32767).astype("<i2").tobytes())
    return file


def write_sounds(samples: Samples, picture: Path) -> dict[str, Path]:
    """Write the sounds of all samples beside their picture, one after the other (.wav); by modality, where they are.

    Raises:
        OSError: one can't be written.
    """
    files = {}
    for name, x in samples.data.items():
        if x.ndim == 3:
            files[name] = picture.with_suffix(".wav")
            write_atomic(files[name], tones_file(x).getvalue())
    return files


def _address(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{b64encode(file.getvalue()).decode()}"
