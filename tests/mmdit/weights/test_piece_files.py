"""Tensors written in pieces over several files are read as the whole ones, and any box of them."""

from __future__ import annotations

import json
import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmdit.weights.header import CheckpointError
from mmdit.weights.piece_files import PIECES_KEY, Piece, PieceFiles, write_pieces


def boxes(shape: tuple[int, ...], rng: random.Random, depth: int = 3) -> list[tuple[slice, ...]]:
    """A tensor cut into boxes at random places."""
    found = [tuple(slice(0, n) for n in shape)]
    for _ in range(depth if shape else 0):
        box = found.pop(rng.randrange(len(found)))
        dim = rng.randrange(len(shape))
        at = rng.randint(box[dim].start, box[dim].stop)
        parts = (slice(box[dim].start, at), slice(at, box[dim].stop))
        found += [(*box[:dim], part, *box[dim + 1 :]) for part in parts if part.stop > part.start]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_every_box_of_what_was_written_in_pieces_is_read(seed, tmp_path):
    rng = random.Random(seed)
    shapes = {"a.weight": (7, 5), "b@0": (4, 3, 6), "step": (), "ids": (11,)}
    whole = {name: torch.randn(shape) for name, shape in shapes.items()} | {"ids": torch.arange(11)}
    files: list[list[Piece]] = [[] for _ in range(3)]
    for name, x in whole.items():
        for box in boxes(tuple(x.shape), rng):
            start = tuple(each.start for each in box)
            files[rng.randrange(3)].append(Piece(name, tuple(x.shape), start, x[box].clone()))
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for path, pieces in zip(paths, files, strict=True):
        write_pieces(path, pieces, {"about": "x"})
    held = PieceFiles(paths)
    assert held.metadata == {"about": "x"} and held.specs.keys() == whole.keys()
    for name, x in whole.items():
        assert torch.equal(held.read(name), x) and held.specs[name].dtype == x.dtype
        start = tuple(rng.randrange(n) for n in x.shape)
        shape = tuple(rng.randint(1, n - a) for a, n in zip(start, x.shape, strict=True))
        box = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
        assert torch.equal(held.box(name, start, shape), x[box])


def test_a_file_of_whole_tensors_is_its_own_pieces(tmp_path):
    whole = {"a": torch.randn(3, 4), "b": torch.tensor(2.0)}
    save_file(whole, tmp_path / "x.safetensors")
    held = PieceFiles([tmp_path / "x.safetensors"])
    assert all(torch.equal(held.read(name), x) for name, x in whole.items())


@pytest.mark.parametrize(
    ("places", "why"),
    [
        ({"a@0": ["a", [4], [0]]}, "do not hold all pieces of a"),
        ({"a@0": ["a", [2], [1]]}, "is no piece of a of the shape"),
        ({"a@0": ["a", [2, 2], [0, 0]]}, "is no piece of a of the shape"),
        ({"a@0": ["a", [2], [-1]]}, "is not of its tensors"),
        ({"b@0": ["a", [2], [0]]}, "is not of its tensors"),
        ([], "is not of its tensors"),
        ({"a@0": 3}, "is not of its tensors"),
        ({"a@0": ["a", [0, 1 << 62, 1 << 62], [0, 0, 0]]}, "is not of its tensors"),
    ],
    ids=str,
)
def test_what_a_file_says_of_its_pieces_is_not_believed(places, why, tmp_path):
    save_file({"a@0": torch.zeros(2)}, tmp_path / "x.safetensors", {PIECES_KEY: json.dumps(places)})
    with pytest.raises(CheckpointError, match=why):
        PieceFiles([tmp_path / "x.safetensors"])


def test_pieces_that_overlap_and_leave_a_gap_are_refused(tmp_path):
    """Together they are as large as the whole."""
    for number, begin in enumerate((0, 1)):
        piece = Piece("a", (4, 3), (begin, 0), torch.ones(2, 3))
        write_pieces(tmp_path / f"{number}.safetensors", [piece], {})
    with pytest.raises(CheckpointError, match="do not hold all pieces of a"):
        PieceFiles([tmp_path / "0.safetensors", tmp_path / "1.safetensors"])


def test_pieces_are_tensors_that_any_reader_of_safetensors_reads(tmp_path):
    write_pieces(tmp_path / "x.safetensors", [Piece("a", (4, 2), (2, 0), torch.ones(2, 2))], {})
    assert torch.equal(load_file(tmp_path / "x.safetensors")["a@2,0"], torch.ones(2, 2))
