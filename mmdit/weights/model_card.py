"""The model card beside the weights in a folder: `README.md`, as the Hugging Face Hub shows one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mmdit.config.yaml_document import one_line
from mmdit.config.yaml_text import to_yaml
from mmdit.options import ModelOptions, as_written

__all__ = ["CARD", "ModelCard", "is_unchanged"]

CARD = "README.md"
_END = re.compile(rb"<!-- written by mmdit, sha256 ([0-9a-f]{64}) -->\n")
_SIGNS = re.compile(r"([\\`*_|<>\[\]])")  # that Markdown would take for its own


@dataclass(frozen=True)
class ModelCard:
    """What a card says.

    Args:
        title: of the model, such as its config's name.
        library: that opens the folder, `mmdit` or `diffusers`.
        opened_by: the Python that does.
        config: of the model.
        facts: what else is known, such as where the weights came from, by name.
    """

    title: str
    library: str
    opened_by: str
    config: ModelOptions
    facts: Mapping[str, str] = field(default_factory=dict)

    def text(self, digests: Mapping[str, str]) -> bytes:
        """The card; `digests`: the SHA-256 of each file of weights beside it, by name."""
        lines = ["---", f"library_name: {self.library}", "tags: [mmdit, diffusion-transformer]", "---", ""]
        lines += [f"# {_escaped(self.title)}", "", "```python", self.opened_by, "```", "", "| | |", "| --- | --- |"]
        lines += [f"| {_escaped(name)} | {_escaped(value)} |" for name, value in self.facts.items()]
        lines += ["", "| file | SHA-256 |", "| --- | --- |"]
        lines += [f"| {_escaped(name)} | `{digest}` |" for name, digest in digests.items()]
        lines += ["", "The config, without what is at its default:", "", "```yaml"]
        text = "\n".join([*lines, to_yaml({"model": as_written(self.config)}) + "```", "", ""]).encode()
        return text + f"<!-- written by mmdit, sha256 {hashlib.sha256(text).hexdigest()} -->\n".encode()


def is_unchanged(card: bytes) -> bool:
    """Whether a card is as it was written, so that nobody's words are lost with it."""
    end = card.rfind(b"<!--")
    match = _END.fullmatch(card[end:]) if end >= 0 else None
    return match is not None and match[1].decode() == hashlib.sha256(card[:end]).hexdigest()


def _escaped(text: str) -> str:
    return _SIGNS.sub(r"\\\1", one_line(text, 300))
