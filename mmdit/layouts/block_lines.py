"""How the lines of one block become those of every block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmdit.options import ModelOptions


def lines_of(text: str) -> list[str]:
    """The lines of a text, without indentation and empty ones."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def below(ours: str, theirs: str, lines: str | Iterable[str]) -> Iterator[str]:
    """The same lines with `.ours` and `.theirs` in front of the names that begin with a dot."""
    for line in lines_of(lines) if isinstance(lines, str) else lines:
        left, right = line.split(" = ")
        yield f"{_prefixed(left, ours)} = {_prefixed(right, theirs)}"


def _prefixed(side: str, prefix: str) -> str:
    start = f"{prefix}." if prefix else ""
    return "".join(start if c == "." and (i == 0 or side[i - 1] in " (") else c for i, c in enumerate(side))


def joint_lines(config: ModelOptions, theirs: str, lines: str, last: str = "") -> Iterator[str]:
    """The lines of every joint block; where the last one discards the text, `last` replaces those of the same names."""
    replaced = {line.split(" = ")[0] for line in lines_of(last)}
    kept = [line for line in lines_of(lines) if line.split(" = ")[0] not in replaced]
    for n in range(config.depth):
        special = n == config.depth - 1 and config.discard and config.unused_weights != "all"
        chosen = [*kept, *lines_of(last)] if last and special else lines_of(lines)
        yield from below(f"transformer.blocks.{n}", f"{theirs}.{n}", chosen)


def single_lines(config: ModelOptions, theirs: str, lines: str) -> Iterator[str]:
    """The lines of every single-stream block."""
    for n in range(config.single_stream.depth if config.single_stream else 0):
        yield from below(f"transformer.single_blocks.{n}", f"{theirs}.{n}", lines)
