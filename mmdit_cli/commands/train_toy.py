"""`mmdit train-toy`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmdit_cli import options as o

if TYPE_CHECKING:
    from mmdit_cli.schema import ToolConfig
    from mmdit_cli.toy.compare import Train
    from mmdit_cli.toy.train import TrainResult

NAME = "train-toy"


def command(
    config: o.ConfigsOption,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, metavar="N", help="Training steps. Default: train.steps."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", metavar="DIR", help="Where the run goes. Default: runs/NAME-TIME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --run-dir.")] = False,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", min=1, metavar="N", help="Train each config N times, with --seed and those after it."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="SHARE", help="Accuracy up to which a comparison counts steps. Default: 90%."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Where a comparison's curves go (.png).")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard event files into the run's folder too.")
    ] = False,
    set_: o.SetOption = None,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = "fp32",
    seed: o.SeedOption = 0,
    json: o.JsonOption = False,
    report: o.ReportOption = None,
    debug: o.DebugOption = False,
) -> None:
    """Train on a small world of captions, pictures and sounds, and score what it learned to draw.

    Rectified flow. bf16 trains under autocast. Ctrl-C saves and says how to go on. Several configs, or several seeds,
    are trained in turns on the same data and compared.

    Example: mmdit train-toy -c configs/toy-two-modality.yaml
    """
    request = o.make_request(NAME, config, set_, device, dtype, seed, json, report)

    from mmdit_cli.commands._show import show
    from mmdit_cli.console import training_progress
    from mmdit_cli.errors import UserError
    from mmdit_cli.tables import train_tables
    from mmdit_cli.toy.runs import check_tensorboard
    from mmdit_cli.toy.train import train

    if tensorboard:
        check_tensorboard()
    comparing = len(config) > 1 or (seeds or 1) > 1
    if resume and (comparing or seeds is not None):
        raise UserError("--resume goes on with one run: give one --config, its --run-dir and its --seed, no --seeds")
    if comparing and run_dir is not None:
        raise UserError("--run-dir is one run's folder; a comparison makes its own, runs/compare-TIME")
    if resume and run_dir is None:
        raise UserError("--resume needs the run's folder; pass --run-dir DIR")
    for option, value in (("--target", target), ("--plot", plot)):
        if value is not None and not comparing:
            raise UserError(f"{option} is for a comparison: give several --config, or --seeds N")

    def run(config: ToolConfig, seed: int, folder: Path | None, title: str) -> TrainResult:
        with training_progress(title) as on_progress:
            return train(
                config,
                device=request.torch_device,
                dtype=request.torch_dtype,
                seed=seed,
                steps=steps,
                run_dir=folder,
                resume=resume,
                tensorboard=tensorboard,
                on_progress=on_progress,
                command_line=["mmdit", *sys.argv[1:]],
            )

    if comparing:
        return _compare(request, run, seeds or 1, steps, target, plot)
    (loaded,) = request.load_configs()
    results = [run(loaded, seed, run_dir, loaded.name)]
    show(request, results, lambda _: train_tables(results))


def _compare(
    request: o.Request, run: Train, seeds: int, steps: int | None, target: str | None, plot: Path | None
) -> None:
    from mmdit.files import write_atomic
    from mmdit_cli.commands._show import show
    from mmdit_cli.document import check_target, make_document
    from mmdit_cli.errors import CheckFailed, UserError
    from mmdit_cli.measure.cards import read_share
    from mmdit_cli.reports import render
    from mmdit_cli.tables_compare import compare_tables
    from mmdit_cli.toy.compare import TARGET, compare, draw
    from mmdit_cli.toy.likeness import distinct
    from mmdit_cli.toy.runs import new_folder

    try:
        share = TARGET if target is None else read_share(target, "--target")
    except ValueError as problem:
        raise UserError(str(problem)) from None
    if plot is not None:
        check_target(plot, "--plot", suffix=".png")
    configs = distinct(request.load_configs(), request.configs)
    if steps is not None:
        configs = [c.model_copy(update={"train": c.train.model_copy(update={"steps": steps})}) for c in configs]
    _ = request.torch_device, request.torch_dtype
    folder = new_folder(Path("runs"), "compare")
    numbers = range(request.seed, request.seed + seeds)
    results, comparison = compare(configs, numbers, folder=folder, train=run, target=share)
    draw(comparison, results, plot or folder / "comparison.png")
    document = make_document(request, results, comparison=comparison)
    write_atomic(folder / "comparison.json", render(document, ".json").encode())
    show(request, results, lambda width: compare_tables(comparison, width), comparison=comparison)
    if comparison.failures:
        failed = "; ".join(f"{x.config}, seed {x.seed}: {x.message}" for x in comparison.failures)
        raise CheckFailed(f"{len(comparison.failures)} of {len(configs) * seeds} runs failed: {failed}")
