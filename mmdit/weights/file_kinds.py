"""What a file is that was given in place of a safetensors file, told by its first bytes, and what to do about it."""

from __future__ import annotations

import re

__all__ = ["HEAD", "foreign"]

HEAD = 512  # bytes that tell it
_LFS_SIZE = re.compile(rb"^size (\d{1,18})$", re.MULTILINE)
AGAIN = "download the file itself again"
CONVERT = (
    "nothing is unpickled here, as that can run code; whoever trusts it converts it, "
    "by torch.load(weights_only=True) and safetensors.torch.save_file"
)


def foreign(head: bytes, size: int) -> str | None:
    """What a file is that is no safetensors file, with what to do; None: it may be one, or is nothing that is known.

    Args:
        head: its first bytes, `HEAD` of them or all.
        size: of the whole, in bytes.
    """
    text = head.lstrip().lower()
    if size == 0:
        return f"is empty; {AGAIN}"
    if head.startswith(b"version https://git-lfs"):
        stands_for = _LFS_SIZE.search(head)
        of = f" of {int(stands_for[1]):,} bytes" if stands_for else ""
        return f"is a Git LFS pointer, which stands for the file{of}; fetch that by git lfs pull, or download it"
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return f"is a web page, such as a hub sends where a model has to be agreed to; sign in there, and {AGAIN}"
    if head.startswith(b"GGUF"):
        return "is a GGUF file"
    if head.startswith(b"PK\x03\x04"):
        return f"is a zip archive, as torch.save writes (.pt, .bin, .ckpt); {CONVERT}"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return f"is a pickle; {CONVERT}"
    if not head.strip(b"\0"):
        return f"begins with nothing but zeros, as a download that was broken off may; {AGAIN}"
    if text.startswith((b"{", b"[")):
        return "is JSON; an index of shards has a name that ends in .safetensors.index.json"
    return None
