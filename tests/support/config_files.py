"""A schema of its own for the config loader, a file that fits it, and how a wrong one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

from mmdit.config.file import ConfigError, load_config


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Round(Section):
    kind: Literal["round"]
    radius: PositiveFloat


class Square(Section):
    kind: Literal["square"]
    side: PositiveInt = 1


class Layer(Section):
    width: PositiveInt
    shape: Annotated[Round | Square, Field(discriminator="kind")] | None = None
    mode: Literal["fast", "slow"] | None = "fast"
    even: Annotated[int, Field(multiple_of=2)] = 2


class Net(Section):
    depth: PositiveInt
    layers: dict[str, Layer] = Field(default={}, min_length=1)
    scale: float = 1
    on: bool = False
    label: str = Field(default="net", min_length=1)
    registers: Annotated[int, Field(ge=0)] | dict[str, Annotated[int, Field(ge=0)]] = 0
    picks: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] = ()

    @field_validator("label")
    @classmethod
    def _label_is_lower(cls, label: str) -> str:
        if label != label.lower():
            raise ValueError(f"a label is lower case, not {label!r}")
        return label

    @model_validator(mode="after")
    def _picks_exist(self) -> Net:
        for index, pick in enumerate(self.picks):
            if pick >= self.depth:
                message = f"block {pick} does not exist"
                raise PydanticCustomError("value_error", "{message}", {"message": message, "at": ("picks", index)})
        if self.scale == 0:
            message = "scale 0 needs an even width"
            at = ("layers", "a", "even")
            raise PydanticCustomError("value_error", "{message}", {"message": message, "at": at})
        return self


class Whole(Section):
    net: Net
    note: Any = None


GOOD = """\
net:
  depth: 4
  layers:
    a: {width: 8}
    b:
      width: 2
      shape: {kind: round, radius: 1e-6}
note: 1
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str | bytes, *overrides: str) -> Whole:
    Path("c.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config("c.yaml", Whole, overrides=overrides)


def refusal(text: str | bytes, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(text, *overrides)
    return str(error.value)
