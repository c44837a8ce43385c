"""`mmdit sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmdit_cli.request.completion import run_names
from mmdit_cli.request.flags import common_options
from mmdit_cli.request.request import Request

NAME = "sample"


@common_options(NAME, config=None, only=("device", "seed", "json", "report", "debug"))
def command(
    request: Request,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, of train-toy.", autocompletion=run_names)],
    caption: Annotated[
        list[str], typer.Option("--caption", metavar="TEXT", help="What to draw. Repeatable, also the same once more.")
    ],
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, max=100_000, metavar="N", help="Sampling steps. Default: train.sampler.steps."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", metavar="S", help="Guidance scale, 1: none. Default: train.sampler.guidance."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Picture (.png, .svg, .pdf); sounds beside it. Default: drawn.png in RUN.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the noise.")] = 0,
) -> None:
    """Draw from a trained run of train-toy, and say what the oracle reads of each picture and sound.

    It draws with the averaged weights of the newest whole checkpoint. A caption may have any of the words that
    training's captions have.

    Example: mmdit sample runs/mine --caption "a small red square in the top left"
    """
    from mmdit.options import as_data
    from mmdit_cli.output.console import message
    from mmdit_cli.request.targets import PICTURES, check_apart, check_target, writing
    from mmdit_cli.toy.drawings import drawings, drawings_tables
    from mmdit_cli.toy.shown_samples import shown_samples
    from mmdit_cli.toy.trained_run import TrainedRun

    trained = TrainedRun(run, device=request.torch_device, on_problem=message)
    sampler = trained.sampler(steps, guidance)
    picture = out or run / "drawn.png"
    check_target(picture, "--out", suffixes=PICTURES)
    check_apart({}, out=picture, report=request.report)
    samples = trained.draw(caption, steps=steps, guidance=guidance, seed=seed)
    with writing("--out", picture):
        files = trained.save(samples, picture)
    request.read.append(as_data(trained.config))
    drawn = drawings(trained, samples, sampler, files)
    request.show(drawn, lambda _: drawings_tables(drawn), samples=shown_samples(samples))
