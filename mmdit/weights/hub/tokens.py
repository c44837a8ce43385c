"""Tokens of the Hub, and messages without them."""

from __future__ import annotations

import re

__all__ = ["checked_token", "masked"]

_SECRETS = (
    (re.compile(r"Bearer\s+\S+", re.IGNORECASE), "Bearer ***"),
    (re.compile(r"\bhf_\w{8,}"), "hf_***"),
    (re.compile(r"(\w://)[^\s/@]+@"), r"\1***@"),
    (re.compile(r"(\w://[^\s?]+)\?[^\s'\")]+"), r"\1?***"),  # signed addresses have their signatures there
)


def checked_token(token: str | bool | None) -> str | bool | None:
    """A token as a header takes it, without the line's end that it has from a file.

    Raises:
        ValueError: it can't be one; the message does not quote it.
    """
    if not isinstance(token, str):
        return token
    token = token.strip()
    if not token or not re.fullmatch(r"[!-~]+", token):
        raise ValueError("token: expected printable ASCII without spaces, as the Hub gives it (not shown here)")
    return token


def masked(text: str) -> str:
    """A message of another package without tokens, passwords and the queries of addresses."""
    for secret, instead in _SECRETS:
        text = secret.sub(instead, text)
    return text
