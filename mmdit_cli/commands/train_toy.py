"""`mmdit train-toy`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmdit_cli import options as o

if TYPE_CHECKING:
    from mmdit_cli.schema import ToolConfig

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
        int, typer.Option("--seeds", min=1, metavar="N", help="Train each config N times: --seed and those after it.")
    ] = 1,
    target: Annotated[
        str, typer.Option("--target", metavar="SHARE", help="The accuracy to which time and FLOPs are told.")
    ] = "90%",
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw all runs' curves (PNG), when several are compared."),
    ] = None,
    parallel: Annotated[
        Literal["ddp", "fsdp"],
        typer.Option("--parallel", help="Under torchrun: whole weights in each process, or sharded ones."),
    ] = "ddp",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's event files into the runs' folders too.")
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

    Rectified flow. bf16 trains under autocast. Ctrl-C saves and says how to go on. Several configs, or --seeds, train
    on the same data in turns and end in a comparison. Under torchrun the processes share each batch.

    Example: mmdit train-toy -c configs/toy-two-modality.yaml
    """
    request = o.make_request(NAME, config, set_, device, dtype, seed, json, report)

    from mmdit_cli.commands._show import show
    from mmdit_cli.console import message, training_progress
    from mmdit_cli.document import check_target
    from mmdit_cli.errors import CheckFailed, UserError
    from mmdit_cli.measure.cards import read_share
    from mmdit_cli.tables import train_tables
    from mmdit_cli.toy.parallel import processes
    from mmdit_cli.toy.runs import compare_folder, read_metrics, safe_name
    from mmdit_cli.toy.train import TrainResult, train

    configs, torch_device, torch_dtype = request.load_configs(), request.torch_device, request.torch_dtype
    several = len(configs) > 1 or seeds > 1
    try:
        share = read_share(target, "--target")
    except ValueError as error:
        raise UserError(str(error)) from None
    if resume and several:
        raise UserError("--resume goes on with one run: give its --config and --run-dir, and no --seeds")
    if resume and run_dir is None:
        raise UserError("--resume needs the run's folder; pass --run-dir DIR")
    if plot is not None:
        check_target(plot, "--plot", suffix=".png")
        if not several:
            raise UserError("--plot draws a comparison; a run's own curves are in its folder (loss.png)")

    def run(loaded: ToolConfig, seed: int, folder: Path | None) -> TrainResult | None:
        name = f"{loaded.name}, seed {seed}" if several else loaded.name
        with processes(torch_device, parallel) as (group, own_device), training_progress(name) as on_progress:
            if several and group.size > 1:
                raise UserError("several configs or seeds are compared in one process; leave out torchrun")
            return train(
                loaded,
                device=own_device,
                dtype=torch_dtype,
                seed=seed,
                steps=steps,
                run_dir=folder,
                resume=resume,
                tensorboard=tensorboard,
                on_progress=on_progress,
                on_message=message,
                command_line=["mmdit", *sys.argv[1:]],
                group=group,
            )

    if not several:
        result = run(configs[0], seed, run_dir)
        if result is not None:
            show(request, [result], lambda _: train_tables([result]))
        return

    from mmdit_cli.plots import compare_plot, save_figure
    from mmdit_cli.tables_compare import compare_tables
    from mmdit_cli.toy.compare import compare_designs, run_designs

    parent = compare_folder(run_dir)
    designs = run_designs(
        configs,
        range(seed, seed + seeds),
        lambda loaded, seed: run(loaded, seed, parent / f"{safe_name(loaded.name)}-seed{seed}"),
        lambda result: read_metrics(Path(result.files["metrics"])),
        message,
    )
    comparison = compare_designs(designs, share)
    results = [result for design in designs for result in design.results.values()]
    curves = {design.config.name: list(design.records.values()) for design in designs}
    picture = plot or parent / "comparison.png"
    save_figure(compare_plot(curves, title=f"{len(configs)} designs, {seeds} seeds"), picture)
    message(f"runs and curves: {parent}")
    show(request, results, lambda _: compare_tables(comparison), comparison=comparison)
    if failed := [f"{d.config}, {problem}" for d in comparison for problem in d.failed]:
        raise CheckFailed("; ".join(failed))
