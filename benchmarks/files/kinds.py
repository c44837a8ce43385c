"""Every kind of file that people have, of a small network of every family: what the tool says it is, and how far the
outputs of what it reads are from the network's.

    python -m benchmarks.files.kinds [--family NAME]
    python -m benchmarks.files.kinds --write docs/reports/file-kinds.md

`exact`: the relative error beside a network of the values that the file stands for, by the format's formula, which is
that of float32's sums. `error`: beside the network that the file was made from, at most what the format rounds. Exit
code: 0, or 1 where a file is called something else or an error is larger.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.utils import logging
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import mmdit
from benchmarks.families.comparison import call_theirs, ours_of, random_call, random_theirs, relative
from benchmarks.families.diffusers_networks import FAMILIES
from benchmarks.families.family import Family
from benchmarks.families.mmaudio import NETWORKS as SOUND
from benchmarks.files.kinds_document import EXACT, FileRow, document
from mmdit.layouts import LayoutError, from_layout, to_layout
from mmdit.layouts.layout import Layout
from mmdit.layouts.names import KNOWN_PREFIXES
from mmdit.layouts.recognition import recognize
from mmdit.layouts.registry import LAYOUTS, family_name
from mmdit.weights.reader import WeightFiles
from mmdit_cli.export.layout_change import convert_weights
from mmdit_cli.export.preconditions import Export
from mmdit_cli.request.tool_config import as_tool_config
from mmdit_cli.shape_check.identity import Identity, identify
from tests.support.quantized_files import SPELLINGS, low_rank, save_gguf, values

ERRORS = {"bf16": 0.03, "fp16": 0.01, "fp8": 0.2, "fp8 e5m2": 0.4, "int8": 0.1, "GGUF Q8_0": 0.1}  # of outputs
NETWORKS = {family.config: family for family in (*FAMILIES, *SOUND)}
Weights = Mapping[str, Tensor]


class Kinds:
    """A family's small network, and files of it in a folder."""

    def __init__(self, family: Family, folder: Path) -> None:
        self.family, self.folder = family, folder
        self.config = family.small_config()
        self.theirs = random_theirs(family)
        self.net = ours_of(self.theirs, family)
        self.call = random_call(family)
        self.outputs = self._run(self.net)
        self.layouts = {name: layout for name in LAYOUTS if (layout := self._in(name)) is not None}

    def rows(self) -> Iterator[FileRow]:
        for index, (name, weights) in enumerate(self.layouts.items()):
            prefix = KNOWN_PREFIXES[index]
            for before, kind in {"": "safetensors", prefix: f"behind {prefix}"}.items():
                held = {before + key: x.contiguous() for key, x in weights.items()}
                save_file(held, self.folder / "plain")
                yield self._row(f"{name}, {kind}", self.folder / "plain", name, prefix=before)
        for dtype, short in {torch.bfloat16: "bf16", torch.float16: "fp16"}.items():
            mmdit.save(self.net, self.folder / short, dtype=dtype)
            yield self._row(f"mmdit, {short}", self.folder / short, "mmdit", bound=ERRORS[short])
        yield from self._folders()
        name, weights = next(item for item in self.layouts.items() if item[0] != "mmdit")
        for spelling, make in SPELLINGS.items():
            made = make(weights)
            save_file(made, self.folder / "quantized")
            bound = ERRORS[spelling if spelling in ERRORS else "fp8"]
            stands_for = {key: values(made, key) for key in weights}
            yield self._row(f"{name}, {spelling}", self.folder / "quantized", name, stands_for, bound=bound)
        save_gguf(weights, self.folder / "gguf")
        yield self._row(f"{name}, GGUF", self.folder / "gguf", name, bound=ERRORS["GGUF Q8_0"])
        for fp8 in ("fp8", "fp8-scaled"):
            yield self._written_in_fp8(fp8)
        yield self._lora(name, weights)

    def _folders(self) -> Iterator[FileRow]:
        self.net.save_pretrained(self.folder / "ours", max_shard_size="50KB")  # type: ignore[operator]
        yield self._row("mmdit, save_pretrained", self.folder / "ours", "mmdit")
        if self.family.layout == "diffusers":
            self.theirs.save_pretrained(self.folder / "theirs", max_shard_size="50KB")  # type: ignore[operator]
            yield self._row("diffusers, save_pretrained", self.folder / "theirs", "diffusers")
            self._export(self.folder / "back", self.folder / "ours", "diffusers", max_shard_size="50KB")
            opened = type(self.theirs).from_pretrained(self.folder / "back").eval()  # type: ignore[attr-defined]
            with torch.no_grad():
                got, wanted = (call_theirs(net, self.family, self.call) for net in (opened, self.theirs))
            yield FileRow(str(self.family), "opened by diffusers", "", None, relative(got, wanted), EXACT, "")

    def _written_in_fp8(self, fp8: Literal["fp8", "fp8-scaled"]) -> FileRow:
        out = self.folder / fp8
        self._export(out, self.folder / "ours", "mmdit", fp8=fp8)
        made = load_file(out)
        return self._row(
            f"mmdit, --dtype {fp8}",
            out,
            "mmdit",
            {key: values(made, key) for key in self.net.state_dict()},
            bound=ERRORS["fp8"],
        )

    def _lora(self, layout: str, weights: Weights) -> FileRow:
        """kohya's, merged by `export --lora`."""
        made = low_rank(weights)
        save_file(made, self.folder / "lora")
        merged = dict(weights)
        for key, x in weights.items():
            target = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
            if f"{target}.alpha" in made:
                up, down = (made[f"{target}.lora_{side}.weight"].double() for side in ("up", "down"))
                scale = made[f"{target}.alpha"].item() / len(down)
                merged[key] = (x.double() + 0.01 * scale * (up @ down)).float()
        found = identify(self.folder / "lora")
        wrong = "" if found.lora and found.spelling == "kohya" and found.ok else "is called no LoRA of kohya's"
        self._export(self.folder / "merged", self.folder / "ours", "mmdit", lora=((self.folder / "lora", 0.01),))
        got, wanted = self._run(mmdit.load(self.folder / "merged")), self._run(self._ours(merged, layout))
        says = ", ".join(("LoRA", str(found.spelling), f"rank {found.ranks[0]}", str(found.family), *found.doubts))
        return FileRow(str(self.family), "LoRA, merged", says, None, relative(got, wanted), EXACT, wrong)

    def _row(
        self,
        kind: str,
        path: Path,
        layout: str,
        stands_for: Weights | None = None,
        *,
        prefix: str = "",
        bound: float = EXACT,
    ) -> FileRow:
        found = identify(path)
        out = self._run(mmdit.load(path, dtype=torch.float32, config=self.config))
        exact = None if stands_for is None else relative(out, self._run(self._ours(stands_for, layout)))
        says = ", ".join(
            filter(None, (found.format, found.layout, found.prefix, found.family, *found.quantized, *found.dtypes))
        )
        wrong = self._wrong(found, layout, prefix, quantized=bound >= ERRORS["int8"])
        called = found.family or ""
        return FileRow(str(self.family), kind, says, exact, relative(out, self.outputs), bound, wrong, called)

    def _wrong(self, found: Identity, layout: str, prefix: str, *, quantized: bool) -> str:
        """What the tool should have said and did not."""
        of_its_config = found.family is None and layout == "mmdit"
        known = recognize(WeightFiles(found.file).tensors)  # our own names may be those of several families
        families = [] if known is None else list(known.configs)
        checks = {
            f"layout {found.layout}": found.layout == layout,
            f"prefix {found.prefix!r}": found.prefix == prefix,
            f"family {found.family}": of_its_config
            or (found.family in families and family_name(layout, self.config.model) in families),
            "not quantized": bool(found.quantized) == quantized,
            "a LoRA": not found.lora,
        }
        return ", ".join(what for what, right in checks.items() if not right)

    def _in(self, layout: str) -> dict[str, Tensor] | None:
        """The weights in a layout, if it has a place for them."""
        try:
            return to_layout(self.net.state_dict(), self.config.model, layout)
        except LayoutError:
            return None

    def _ours(self, weights: Weights, layout: str) -> nn.Module:
        """The network of weights in a layout; tables that we compute are those that they should be."""
        tables = Layout(layout, self.config.model).tables
        whole = self.layouts[layout] | {name: x.float() for name, x in weights.items() if name not in tables}
        net = mmdit.build(self.config.model)
        net.load_state_dict(from_layout(whole, self.config.model, layout))
        return net.eval()

    def _run(self, net: nn.Module) -> Tensor:
        with torch.no_grad():
            out: Tensor = net(**self.call)[self.family.drawn]
        return out

    def _export(self, out: Path, weights: Path, target: str, **asked: Any) -> None:
        run = {"tokens": {"text": 7, self.family.drawn: 16}}
        config = as_tool_config({"name": "small", "model": self.config.model, "run": run})
        convert_weights(config, Export(out=out, weights=weights, **asked), source=None, target=target)


def rows_of(family: Family) -> Iterator[FileRow]:
    """A row for each kind of file."""
    with tempfile.TemporaryDirectory() as folder:
        yield from Kinds(family, Path(folder)).rows()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    one = "this alone (repeatable)"
    parser.add_argument("--family", action="append", choices=list(NETWORKS), metavar="NAME", help=one)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write a document as well")
    options = parser.parse_args()
    logging.disable_progress_bar()
    rows = []
    print(f"{'family':22} {'kind':28} {'exact':>6} {'error':>8} {'bound':>6}  what the tool says")
    for name in options.family or NETWORKS:
        for row in rows_of(NETWORKS[name]):
            print(row, flush=True)
            rows.append(row)
    if options.write:
        options.write.write_text(document(rows), encoding="utf-8")
    wrong = sum(not row.good for row in rows)
    print(f"{wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
