"""What can go wrong on purpose, and the exit code of each."""

from __future__ import annotations


class UserError(Exception):
    """The request is wrong: exit code 2. The message says what was got and what would be right."""


class CheckFailed(Exception):
    """What was asked for was checked and is not so: exit code 1."""
