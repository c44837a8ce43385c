"""The headers of a repository's weights without their tensors, by requests of ranges: files of the right length, with a
hole where the tensors would be, for who asks no more than what they are."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmdit.weights.header import MAX_HEADER

__all__ = ["NotThisWayError", "write_heads"]

FIRST = 1 << 19  # bytes that are asked for at first; headers of published files take some 100,000
_PART = re.compile(r"bytes 0-\d+/(\d{1,15})")


class NotThisWayError(Exception):
    """Files are not to be had in a way; in another they may be."""


def write_heads(
    hub: Any, repo: str, names: Iterable[str], folder: Path, *, commit: str, token: str | bool | None
) -> None:
    """Write the stand-ins of a repository's files into a folder, as far as they are not there. A file system without
    holes gives each the room of the whole file.

    Args:
        hub: the package `huggingface_hub`.

    Raises:
        NotThisWayError: the server sends whole files alone.
        Exception: what the package raises.
    """
    headers = hub.utils.build_hf_headers(token=token)
    for name in names:
        file = folder / name
        if file.exists():
            continue
        url = hub.hf_hub_url(repo, name, revision=commit)
        head, size = _head(hub, url, headers, MAX_HEADER if name.endswith(".json") else FIRST)
        if (wanted := _wanted(head)) > len(head):
            head, size = _head(hub, url, headers, wanted)
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "wb") as stand_in:
            stand_in.write(head)
            stand_in.truncate(size)


def _head(hub: Any, url: str, headers: dict[str, str], count: int) -> tuple[bytes, int]:
    """A file's first bytes, as many as it has of these, and its size.

    Raises:
        NotThisWayError: the server sends more than was asked for, or says no size that could be.
    """
    asked = headers | {"Range": f"bytes=0-{count - 1}", "Accept-Encoding": "identity"}
    patience = hub.constants.HF_HUB_DOWNLOAD_TIMEOUT
    head = bytearray()
    with hub.utils.get_session().stream("GET", url, headers=asked, follow_redirects=True, timeout=patience) as response:
        if response.status_code == 416:  # it is empty
            return b"", 0
        hub.utils.hf_raise_for_status(response)
        part = _PART.fullmatch(response.headers.get("Content-Range", ""))
        if response.status_code != (206 if part else 200):
            raise NotThisWayError
        most = count if part else count + 1
        for piece in response.iter_bytes():
            head += piece
            if len(head) >= most:
                break
    if part is None and len(head) > count:  # a small file may come whole
        raise NotThisWayError
    size = int(part[1]) if part else len(head)
    if len(head) < min(count, size):
        raise ConnectionError(f"{len(head):,} bytes of {count:,} came")
    return bytes(head[:count]), size


def _wanted(head: bytes) -> int:
    """How many bytes the header of a file takes, by its first bytes; 0: it has none."""
    if head.startswith(b"GGUF"):
        return MAX_HEADER
    length: int = struct.unpack("<Q", head[:8].ljust(8, b"\0"))[0]
    return 8 + length if head[8:9] == b"{" and length <= MAX_HEADER else 0
