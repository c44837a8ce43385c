"""`mmdit train-toy`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.request.completion import config_names
from mmdit_cli.request.flags import MatchOption, VaryOption, common_options
from mmdit_cli.request.request import Request

if TYPE_CHECKING:
    from mmdit_cli.request.tool_config import ToolConfig
    from mmdit_cli.toy.trainer import Precision

NAME = "train-toy"


@common_options(NAME, config=None)
def command(
    request: Request,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="A YAML file, a shipped config's name, or -. Repeatable. --resume takes the run's own.",
            autocompletion=config_names,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, max=1_000_000_000, metavar="N", help="Training steps. Default: train.steps."),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", metavar="DIR", help="Where the run, or a comparison's runs, go. Default: in runs/."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --run-dir, or with a comparison: its command once more."),
    ] = False,
    allow_changes: Annotated[
        bool,
        typer.Option("--allow-changes", help="Resume with another config, seed or dtype than before; says which."),
    ] = False,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", min=1, max=1000, metavar="N", help="Train each config N times: --seed and those after it."
        ),
    ] = 1,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="SHARE", help="Accuracy up to which a comparison counts steps. Default: 90%."),
    ] = None,
    match: MatchOption = None,
    vary: VaryOption = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw all runs' curves (.png, .svg, .pdf), of a comparison."),
    ] = None,
    parallel: Annotated[
        str,
        typer.Option(
            "--parallel", metavar="KINDS", help="Under torchrun: ddp, fsdp, hsdp, tp=N, ulysses=N, some by commas."
        ),
    ] = "ddp",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's event files into the runs' folders too.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="DTYPE", help="fp32, or bf16: autocast over float32 weights.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Seed of weights, data and noise. Default: 0.")
    ] = None,
) -> None:
    """Train on a small world of captions, pictures and sounds, and score what it learned to draw.

    Rectified flow. bf16 is mixed precision: float32 weights, bf16 autocast. Ctrl-C and SIGTERM save and say how to go
    on. Several configs, or --seeds, train on the same data in turns and end in a comparison. Under torchrun the
    processes share each batch.

    Example: mmdit train-toy -c configs/toy-two-modality.yaml
    """
    from mmdit_cli.model_parts.matching import match_configs
    from mmdit_cli.output.console import is_main, message, training_progress
    from mmdit_cli.request.numbers import read_share
    from mmdit_cli.request.targets import PICTURES, check_apart, check_target
    from mmdit_cli.request.typed import typed_command
    from mmdit_cli.toy.comparability import as_trained
    from mmdit_cli.toy.processes import processes
    from mmdit_cli.toy.run_folder import asked_of_run, check_run, check_tensorboard, holds_run, in_runs
    from mmdit_cli.toy.tables import train_tables
    from mmdit_cli.toy.training import Interrupted, TrainResult, train

    several = len(request.configs) > 1 or seeds > 1
    if resume and run_dir is None:
        raise UserError("--resume needs the run's folder; pass --run-dir DIR")
    if resume and not several:
        request = replace(request, **asked_of_run(check_run(run_dir), config=config, dtype=dtype, seed=seed))
    elif not config:
        raise UserError("which config? Give --config FILE, or go on with a run by --resume --run-dir DIR")
    configs, torch_device, torch_dtype = request.load_configs(), request.torch_device, request.torch_dtype
    configs = match_configs(request, configs, match, vary, counted=as_trained)
    first = request.seed
    precision: Precision = "pure" if request.dtype == "fp32" else "mixed"
    if tensorboard:
        check_tensorboard()
    share = read_share("90%" if target is None else target, "--target")
    if first + seeds > 1 << 64:
        raise UserError(f"--seeds {seeds}: the last of them, {first + seeds - 1}, is no number of 64 bits")
    if allow_changes and not resume:
        raise UserError("--allow-changes is for --resume")
    if target is not None and not several:
        raise UserError("--target is for a comparison: give several --config, or --seeds N")
    if plot is not None:
        check_target(plot, "--plot", suffixes=PICTURES)
        if not several:
            raise UserError("--plot draws a comparison; a run's own curves are in its folder (loss.png)")
    check_apart({"config": request.configs}, plot=plot, report=request.report, run_dir=run_dir)
    request.say_unused()
    for note in request.footnotes if is_main() else ():  # before the work, and again under its tables
        message(note)

    def run(loaded: ToolConfig, seed: int, folder: Path | None, title: str) -> TrainResult | None:
        with processes(torch_device, parallel) as (group, own_device), training_progress(title) as on_progress:
            if several and group.size > 1:
                raise UserError("several configs or seeds are compared in one process; leave out torchrun")
            return train(
                loaded,
                device=own_device,
                dtype=torch_dtype,
                seed=seed,
                steps=steps,
                run_dir=folder,
                resume=resume and (not several or (folder is not None and holds_run(folder))),
                allow_changes=allow_changes,
                tensorboard=tensorboard,
                on_progress=on_progress,
                on_message=message if group.main else lambda text: None,
                command_line=typed_command(),
                group=group,
            )

    if not several:
        result = run(configs[0], first, run_dir, configs[0].name)
        if result is not None:
            request.show([result], lambda _: train_tables([result]), precision=precision)
        return

    from mmdit_cli.toy.comparability import distinct
    from mmdit_cli.toy.comparison import draw_comparison, failed_runs, save_comparison
    from mmdit_cli.toy.comparison_tables import compare_tables

    if steps is not None:
        configs = [replace(c, train=replace(c.train, steps=steps)) for c in configs]
    place = run_dir or in_runs("compare")
    try:
        results, comparison = save_comparison(
            distinct(configs, request.configs),
            range(first, first + seeds),
            folder=place,
            train=run,
            target=share,
            resume=resume,
            document=lambda results, comparison: request.document(results, comparison=comparison, precision=precision),
        )
    except KeyboardInterrupt as stop:
        where = stop.where if isinstance(stop, Interrupted) else f"interrupted between runs in {place}"
        more = ["--run-dir", str(place)] * (run_dir is None) + ["--resume"] * (not resume)
        raise Interrupted(where, shlex.join([*typed_command(), *more])) from None
    request.show(
        results,
        lambda width: compare_tables(comparison, width),
        picture=(plot or Path(comparison.run_dir) / "comparison.png", lambda: draw_comparison(results, comparison)),
        comparison=comparison,
        precision=precision,
    )
    if failed := failed_runs(comparison):
        raise CheckFailed(failed)
