"""Completion in bash, which takes `KEY=VALUE` apart at the `=` and completes only what comes after it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def bash_words() -> Iterator[None]:
    """Let completion see the words that were typed, and bash only what it asks for; does nothing but for bash."""
    if os.environ.get("_MMDIT_COMPLETE") != "complete_bash":
        yield
        return
    words, said = _typed(os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"]) + 1]), io.StringIO()
    os.environ.update(COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1))
    try:
        with redirect_stdout(said):
            yield
    finally:
        known = words[-1][: words[-1].rfind("=") + 1]
        if known.startswith("--"):  # --set=KEY=VALUE
            known = known.partition("=")[2]
        sys.stdout.write("".join(line.removeprefix(known) for line in said.getvalue().splitlines(keepends=True)))


def _typed(words: list[str]) -> list[str]:
    """The words with their `=`, of which bash makes words."""
    typed: list[str] = []
    joins = False
    for word in words:
        if typed and (joins or word == "="):
            typed[-1] += word
        else:
            typed.append(word)
        joins = word == "="
    return typed
