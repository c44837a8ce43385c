"""Wrong requests about files as others publish them: scales, GGUF headers, LoRAs and indexes that are none."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from functools import cache

import torch
from safetensors.torch import save
from torch import Tensor

import mmdit
from tests.robustness.cases import Case, Turns, base, case
from tests.support.quantized_files import low_rank, scaled

INDEX = "odd/model.safetensors.index.json"
Tensors = dict[str, Tensor]


def published_file_cases(turns: Turns) -> Iterator[Case]:
    for name, change in SCALES.items():
        made = scaled(_weights())
        change(made, next(key for key in made if key.endswith("scale_weight")))
        request = turns.request("--weights", "odd", of="export")
        yield case("published files", f"a scale {name}", request, "odd", files={"odd": save(made)})
    for name, content in _gguf_headers().items():
        for command in ("shape-check", "export"):
            request = turns.request("--weights", "odd", of=command)
            yield case("published files", f"GGUF {name}, {command}", request, "odd", files={"odd": content})
    loras = {"of other sizes": {name: x[:, :2] if "up" in name else x for name, x in _lora().items()}}
    loras["of other layers"] = {name.replace("blocks", "layers"): x for name, x in _lora().items()}
    for name, made in loras.items():
        files = {"good": save(_weights()), "odd": save({key: x.contiguous() for key, x in made.items()})}
        request = turns.request("--weights", "good", "--lora", "odd", of="export")
        yield case("published files", f"a LoRA {name}", request, "odd", files=files)
    for name, shard in {"itself": "model.safetensors.index.json", "the next": "next.safetensors.index.json"}.items():
        files = {INDEX: json.dumps({"weight_map": {"x": shard}}).encode()}
        files["odd/next.safetensors.index.json"] = b'{"weight_map": {"x": "model.safetensors.index.json"}}'
        for command in ("shape-check", "export"):
            request = turns.request("--weights", INDEX, of=command)
            yield case("published files", f"an index of {name}, {command}", request, "odd", files=files)


def _remove(made: Tensors, scale: str) -> None:
    del made[scale]


def _put(value: Tensor) -> Callable[[Tensors, str], None]:
    return lambda made, scale: made.update({scale: value})


SCALES = {
    "that is missing": _remove,
    "that is not a number": _put(torch.tensor(float("nan"))),
    "that is infinite": _put(torch.tensor(float("inf"))),
    "of another shape": _put(torch.ones(3)),
    "of whole numbers": _put(torch.tensor(3)),
}


@cache
def _weights() -> Tensors:
    torch.manual_seed(0)
    return {name: torch.randn(x.shape) for name, x in mmdit.build(base()["model"]).state_dict().items()}


@cache
def _lora() -> Tensors:
    return low_rank(_weights())


def _gguf_headers() -> dict[str, bytes]:
    def header(tensors: int = 1, offset: int = 0, length: int = 1, size: int = 4) -> bytes:
        entry = struct.pack("<Q", length) + b"x" + struct.pack("<IQIQ", 1, size, 0, offset)
        return b"GGUF" + struct.pack("<IQQ", 3, tensors, 0) + entry + bytes(512)

    return {
        "whose tensor lies outside": header(offset=1 << 40),
        "whose tensor is larger than it": header(size=1 << 40),
        "with a name that ends outside": header(length=1 << 60),
        "that names more tensors than it has": header(tensors=3000),
    }
