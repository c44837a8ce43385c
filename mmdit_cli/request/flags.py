"""The options that all commands have, declared once; nothing heavy is imported here."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from mmdit_cli.errors import UserError
from mmdit_cli.request.request import Request, make_request

Command = Callable[..., None]

SweepOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep", metavar="KEY=V1,V2", help="Take each value of a key in turn, or each of 6..12. Repeat for a grid."
    ),
]
StepsOption = Annotated[
    int | None,
    typer.Option("--steps", min=1, max=100_000, metavar="N", help="--mode sample: Euler steps. Default: run.steps."),
]
GuidanceOption = Annotated[
    float | None,
    typer.Option("--guidance", metavar="S", help="--mode sample: guidance scale, 1: none. Default: run.guidance."),
]
OneConfig = Annotated[
    str,
    typer.Option(
        "--config", "-c", metavar="FILE", help="A YAML file, a shipped config's name, a run, weights, or - (stdin)."
    ),
]
SeveralConfigs = Annotated[
    list[str],
    typer.Option(
        "--config", "-c", metavar="FILE", help="A YAML file, a shipped config's name, a run, weights, or -. Repeatable."
    ),
]
COMMON: dict[str, tuple[Any, Any]] = {  # in the order of the help: type and default
    "set_": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--set",
                metavar="KEY=VALUE",
                help="Change a config value: --set model.depth=4, or of all: model.modalities.*.dim=64. Repeatable.",
            ),
        ],
        None,
    ),
    "device": (Annotated[str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N.")], "cpu"),
    "dtype": (
        Annotated[str, typer.Option("--dtype", metavar="DTYPE", help="fp32, bf16 or fp16 (or float32, ...).")],
        "fp32",
    ),
    "seed": (Annotated[int, typer.Option("--seed", metavar="N", help="Seed of weights and inputs.")], 0),
    "json": (Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")], False),
    "report": (
        Annotated[
            Path | None, typer.Option("--report", metavar="FILE", help="Also write a .json, .csv, .md or .html file.")
        ],
        None,
    ),
    "debug": (Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")], False),
}


def common_options(name: str, *, config: Any = SeveralConfigs, only: Sequence[str] = tuple(COMMON)) -> Any:
    """Give a command the common options; the function is called with the `Request` that they make, first, and its own.

    An option that the function declares itself stands in the place of the common one, and is given to it as well.

    Args:
        config: the type of `--config`; None: the command has none.
        only: the common options that the command has, if not all.
    """

    def decorate(function: Command) -> Command:
        hints = get_type_hints(function, include_extras=True)
        own = [p.replace(annotation=hints[p.name]) for p in list(signature(function).parameters.values())[1:]]
        given = [] if config is None else [Parameter("config", Parameter.KEYWORD_ONLY, annotation=config)]
        shared = {key: _parameter(key) for key in only} | {p.name: p for p in own if p.name in only}
        parameters = [*given, *(p for p in own if p.name not in only), *shared.values()]

        @functools.wraps(function)
        def command(**values: Any) -> None:
            configs = values.get("config") or []
            asked = {key: default if values.get(key) is None else values[key] for key, (_, default) in COMMON.items()}
            del asked["debug"]  # of errors alone
            overrides = asked.pop("set_")
            request = make_request(name, [configs] if isinstance(configs, str) else configs, overrides, **asked)
            function(request, **{p.name: values[p.name] for p in own})

        command.__signature__ = Signature(  # type: ignore[attr-defined]
            [p.replace(kind=Parameter.KEYWORD_ONLY) for p in parameters]
        )
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def with_sampling(request: Request, mode: str, steps: int | None, guidance: float | None) -> Request:
    """The request with what `--steps` and `--guidance` say, which is short for `--set run.steps` and `run.guidance`.

    Raises:
        UserError: it is no sampling run that is asked for, or the guidance is no number above 0.
    """
    given = {"steps": steps, "guidance": guidance}
    given = {key: value for key, value in given.items() if value is not None}
    if given and mode != "sample":
        raise UserError(f"--{next(iter(given))} is for --mode sample")
    if guidance is not None and not 0 < guidance < math.inf:
        raise UserError(f"--guidance {guidance}: expected a number > 0")
    return replace(request, overrides=[*request.overrides, *(f"run.{key}={value!r}" for key, value in given.items())])


def _parameter(key: str) -> Parameter:
    kind, default = COMMON[key]
    return Parameter(key, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
