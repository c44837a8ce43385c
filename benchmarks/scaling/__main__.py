"""What the 8- and 20-billion models would need on 1 to 1024 GPUs: memory, communication and time, on paper.

    python -m benchmarks.scaling --write docs/reports/scaling.md

Nothing is measured. FLOPs, parameters and activations are the tool's own figures (meta and fake tensors); the rest is
arithmetic, in `formulas.py`. `--check FILE` exits with 1 where the file is not what would be written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.scaling.document import document
from benchmarks.scaling.formulas import Machine
from mmdit_cli.request.cards import find_card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card", default="h100")
    parser.add_argument("--utilization", type=float, default=0.4)
    parser.add_argument("--memory", type=float, default=80e9, help="bytes of a GPU")
    parser.add_argument("--inside", type=float, default=450e9, help="bytes/s a GPU sends inside its node")
    parser.add_argument("--outside", type=float, default=50e9, help="bytes/s a GPU sends to other nodes")
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--check", type=Path, metavar="FILE", help="exit with 1 where the file says otherwise")
    options = parser.parse_args()
    rate = find_card(options.card, "bf16").flops_per_s * options.utilization
    machine = Machine(rate, options.memory, options.inside, options.outside)
    text = document(machine, options.card, options.utilization)
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    elif not options.check:
        print(text)
    if options.check and options.check.read_text(encoding="utf-8") != text:
        print(f"{options.check} is not what this script writes now", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
