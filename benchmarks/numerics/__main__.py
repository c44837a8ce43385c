"""How far float32, bfloat16 and float16 are from float64, for every variant and up to 48 layers.

    python -m benchmarks.numerics                                    what was measured, beside the bounds
    python -m benchmarks.numerics --write docs/reports/numerics.md   the same as a document

The tests hold every row to the same bounds (`tests/benchmarks/test_numerics.py`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.numerics.document import document
from benchmarks.numerics.rounding import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write a document instead of printing it")
    path = parser.parse_args().write
    text = document(measure())
    print(text) if path is None else path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
