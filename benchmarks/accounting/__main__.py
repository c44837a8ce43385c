"""Whether the tool's figures can be believed: what other tools count, and each claim beside what is found.

    python -m benchmarks.accounting agreement --write docs/reports/agreement.md
    python -m benchmarks.accounting accuracy --write docs/reports/profile.md [--quick]

Exit code 1 where a tool says nothing of FLOPs, or a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.accounting import accuracy, agreement
from benchmarks.paths import CACHE, CONFIGS
from mmdit_cli.output.console import stdout
from mmdit_cli.request.tool_config import load_tool_config


def agree(options: Any) -> tuple[str, bool]:
    config = load_tool_config(options.config)
    closed, batch = agreement.closed_form(config), config.run.batch_size
    findings = []
    for tool in options.tools:
        print(f"asking {tool}", file=sys.stderr)
        findings.append(agreement.ask(tool, options.config.resolve(), options.environments))
    rows, memory = [agreement.row(x, closed, batch) for x in findings], agreement.memory_rows(findings)
    for table in agreement.tables(rows, memory):
        stdout().print(table)
    return agreement.markdown(config, closed, rows, memory), all(x.flops is not None for x in findings)


def be_accurate(options: Any) -> tuple[str, bool]:
    found = []
    for claim in accuracy.claims(options.quick):
        found.append(claim)
        print(claim, flush=True)
    falls = accuracy.narrowing(4.0 if options.quick else 32.0)
    return accuracy.document(found, falls), all(claim.good for claim in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("agreement", help="parameters, FLOPs and memory that other tools count, and why")
    command.set_defaults(run=agree)
    command.add_argument("--config", type=Path, default=CONFIGS / "two-modality.yaml", metavar="FILE")
    tools = list(agreement.TOOLS)
    command.add_argument("--tools", nargs="+", choices=tools, default=tools, metavar="TOOL")
    kept = CACHE / "agreement"
    command.add_argument("--environments", type=Path, default=kept, metavar="DIR", help="default: %(default)s")
    command.add_argument("--write", type=Path, metavar="FILE", help="write the tables there as Markdown too")
    command = commands.add_parser("accuracy", help="latency, overhead, memory and FLOPs, each beside its goal")
    command.set_defaults(run=be_accurate)
    command.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    command.add_argument("--write", type=Path, metavar="FILE", help="write the table there as Markdown too")
    options = parser.parse_args()
    text, good = options.run(options)
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    sys.exit(not good)


if __name__ == "__main__":
    main()
