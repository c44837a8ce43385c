"""Whether the best learning rate of a narrow network is that of a wide one, in both parametrizations.

    python -m benchmarks.mup                                trains, and prints what was found
    python -m benchmarks.mup --write docs/reports/mup.md    the same as a document, with its two pictures beside it

Losses are kept in `--run-dir`: a command that was stopped goes on. By default all take half an hour of a CPU core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.mup.document import document, transfer_plot
from benchmarks.mup.transfer import transfer
from mmdit_cli.output.console import stage_progress
from mmdit_cli.output.figures import save_figure
from mmdit_cli.toy.coordinate_plot import coordinate_plot
from mmdit_cli.toy.coordinates import coordinate_check


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write a document instead of printing it")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", default=Path("runs/mup"), help="where losses are kept")
    parser.add_argument("--device", metavar="DEVICE", default="cpu", help="cpu, or cuda")
    parser.add_argument("--steps", type=int, metavar="N", default=300, help="of each run")
    parser.add_argument("--batch", type=int, metavar="N", default=8, help="samples a step")
    parser.add_argument("--seeds", type=int, metavar="N", default=3, help="of each learning rate")
    asked = parser.parse_args()
    sizes = {"steps": asked.steps, "batch": asked.batch, "seeds": asked.seeds}
    found = transfer(asked.run_dir, torch.device(asked.device), **sizes)
    with stage_progress() as on_progress:
        moved = coordinate_check(found.config, torch.device(asked.device), on_progress=on_progress)
    text = document(found, moved)
    if asked.write is None:
        print(text)
        return
    asked.write.write_text(text, encoding="utf-8")
    save_figure(transfer_plot(found), asked.write.with_name("mup-transfer.png"))
    save_figure(coordinate_plot(moved), asked.write.with_name("mup-coordinates.png"))


if __name__ == "__main__":
    main()
