"""`mmdit train-toy`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from mmdit_cli.errors import UserError
from mmdit_cli.model_parts.intervals import FEWEST_PAIRS
from mmdit_cli.request.completion import config_names, settings
from mmdit_cli.request.flags import MatchOption, SweepOption, VaryOption, common_options
from mmdit_cli.request.request import Request
from mmdit_cli.toy.seed_plan import MOST, UNTIL_DECIDED, By, read_seeds

NAME = "train-toy"
TUNING_SEEDS = 2  # where --tune-seeds does not say


def _trackers() -> list[str]:
    from mmdit_cli.toy.trackers import KINDS

    return sorted(KINDS)


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
        str,
        typer.Option(
            "--seeds",
            metavar="N",
            help="Train each config N times, --seed and those after it; auto: until each is decided against the first.",
        ),
    ] = "1",
    max_seeds: Annotated[
        int | None,
        typer.Option(
            "--max-seeds",
            min=FEWEST_PAIRS,
            max=MOST,
            metavar="N",
            help=f"Of --seeds auto: no more than N. Default: {UNTIL_DECIDED}.",
        ),
    ] = None,
    sweep: SweepOption = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(
            "--tune",
            metavar="KEY=V1,V2",
            help="Compare each config at its own best value, found on other seeds. Repeat for a grid.",
            autocompletion=settings,
        ),
    ] = None,
    tune_seeds: Annotated[
        int | None,
        typer.Option(
            "--tune-seeds", min=1, max=1000, metavar="N", help=f"Seeds of each value tried. Default: {TUNING_SEEDS}."
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            "--by", metavar="COST", help="Compare at equal steps, flops or seconds of training: those of the first."
        ),
    ] = "steps",
    law: Annotated[
        bool,
        typer.Option("--law", help="Fit how loss and errors fall with the sizes of each design; give at least four."),
    ] = False,
    law_budget: Annotated[
        str | None,
        typer.Option(
            "--law-budget", metavar="FLOPS", help="Of --law: the best size for so many, from three lengths of training."
        ),
    ] = None,
    coordinate_check: Annotated[
        bool,
        typer.Option("--coordinate-check", help="How far do first steps move wider networks? Standard, and muP."),
    ] = False,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="SHARE", help="Accuracy up to which a comparison counts steps. Default: 90%."),
    ] = None,
    match: MatchOption = None,
    vary: VaryOption = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw all runs' curves, or the laws of --law (.png, .svg, .pdf)."),
    ] = None,
    parallel: Annotated[
        str,
        typer.Option(
            "--parallel", metavar="KINDS", help="Under torchrun: ddp, fsdp, hsdp, tp=N, ulysses=N, some by commas."
        ),
    ] = "ddp",
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", min=1, max=1024, metavar="N", help="Train N runs side by side, each on its share of the cores."
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's event files into the runs' folders too.")
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(
            "--track",
            metavar="NAME",
            help="Tell wandb (offline) or trackio (local) of each run as well. Repeatable.",
            autocompletion=_trackers,
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="DTYPE", help="fp32, or bf16: autocast over float32 weights.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Seed of weights, data and noise. Default: 0.")
    ] = None,
) -> None:
    """Train on a small world of captions, pictures and sounds, and score what it learned to draw.

    Rectified flow. bf16 is mixed precision: float32 weights, bf16 autocast. Ctrl-C and SIGTERM save and say how to go
    on. Several configs, --seeds or --sweep train on the same data in turns and end in a comparison. Under torchrun the
    processes share each batch.

    Example: mmdit train-toy -c configs/toy-two-modality.yaml
    """
    from mmdit_cli.model_parts.matching import match_configs
    from mmdit_cli.model_parts.processes import processes
    from mmdit_cli.output.console import is_main, message, training_progress
    from mmdit_cli.request.numbers import read_share
    from mmdit_cli.request.sweep import PointConfig, load_grids
    from mmdit_cli.request.targets import PICTURES, check_apart, check_target
    from mmdit_cli.request.typed import typed_command
    from mmdit_cli.toy.comparability import as_trained
    from mmdit_cli.toy.compared_grids import distinct_grids, swept
    from mmdit_cli.toy.comparison_command import Asked, compare
    from mmdit_cli.toy.equal_cost import with_steps
    from mmdit_cli.toy.laws.asked import read_law
    from mmdit_cli.toy.run_folder import asked_of_run, check_run
    from mmdit_cli.toy.run_settings import RunSettings
    from mmdit_cli.toy.tables import train_tables
    from mmdit_cli.toy.trackers import check_trackers
    from mmdit_cli.toy.training import train

    if coordinate_check:
        from mmdit_cli.toy.coordinate_command import check_coordinates

        of_trainings = {
            **{"--steps": steps, "--run-dir": run_dir, "--resume": resume, "--allow-changes": allow_changes},
            **{"--seeds": seeds != "1", "--max-seeds": max_seeds, "--sweep": sweep, "--tune": tune},
            **{"--tune-seeds": tune_seeds, "--by": by != "steps", "--law": law, "--law-budget": law_budget},
            **{"--target": target, "--match": match or vary, "--parallel": parallel != "ddp", "--jobs": jobs},
            **{"--tensorboard": tensorboard, "--track": track, "--dtype": dtype not in (None, "fp32")},
        }
        check_coordinates(request, plot, of_trainings)
        return
    plan = read_seeds(seeds, max_seeds, first=request.seed)
    several = len(request.configs) > 1 or plan.most > 1 or bool(tune or sweep)
    if resume and run_dir is None:
        raise UserError("--resume needs the run's folder; pass --run-dir DIR")
    if resume and not several:
        request = replace(request, **asked_of_run(check_run(run_dir), config=config, dtype=dtype, seed=seed))
    elif not config:
        raise UserError("which config? Give --config FILE, or go on with a run by --resume --run-dir DIR")
    spread_by = [name for name, given in (("--sweep", sweep), ("--tune", tune), ("--match", match or vary)) if given]
    if len(spread_by) > 1:
        raise UserError(f"{' and '.join(spread_by)}: leave one out, and set what it is to give by --set")
    torch_device, torch_dtype = request.torch_device, request.torch_dtype
    grids = load_grids(request, sweep or tune, "--sweep" if sweep else "--tune")
    if not (sweep or tune):
        configs = match_configs(request, [each.config for (each,) in grids], match, vary, counted=as_trained)
        grids = [[PointConfig(config, {})] for config in configs]
    if (steps is not None or by != "steps") and any("train.steps" in each.point for grid in grids for each in grid):
        other = "--steps" if steps is not None else f"--by {by}"
        raise UserError(f"{spread_by[0]} train.steps: {other} sets the steps as well; leave one out")
    if steps is not None:
        grids = [[with_steps(each, steps) for each in grid] for grid in grids]
    trackers = tuple(dict.fromkeys([*(["tensorboard"] if tensorboard else []), *(track or ())]))
    check_trackers(trackers)
    share = read_share("90%" if target is None else target, "--target")
    if by not in get_args(By):
        raise UserError(f"--by {by}: expected {', '.join(get_args(By))}")
    if tune_seeds is not None and not tune:
        raise UserError("--tune-seeds is for --tune")
    if allow_changes and not resume:
        raise UserError("--allow-changes is for --resume")
    if not several:
        for option, given in (("--target", target), ("--jobs", jobs), ("--by", by if by != "steps" else None)):
            if given is not None:
                raise UserError(f"{option} is for a comparison: give several --config, or --seeds N")
        if plot is not None:
            raise UserError("--plot draws a comparison; a run's own curves are in its folder (loss.png)")
    if plot is not None:
        check_target(plot, "--plot", suffixes=PICTURES)
    check_apart({"config": request.configs}, plot=plot, report=request.report, run_dir=run_dir)
    designs = swept(request, grids) if sweep else distinct_grids(request.configs, grids)
    if plan.auto and len(designs) < 2:
        raise UserError("--seeds auto decides between designs, and there is one: give several --config, or --seeds N")
    of_law = read_law(law, law_budget, designs, tuned=bool(tune), by=cast(By, by), auto=plan.auto)
    request.say_unused()
    for note in request.footnotes if is_main() else ():  # before the work, and again under its tables
        message(note)
    how = RunSettings(torch_device, torch_dtype, resume, allow_changes, trackers, tuple(typed_command()))
    with processes(torch_device, parallel) as (group, own_device):
        if several and group.size > 1:
            raise UserError("several configs or seeds are compared in one process; leave out torchrun")
        if several:
            on = (tune_seeds or TUNING_SEEDS) if tune else None
            asked = Asked(designs, plan, on, cast(By, by), jobs or 1, share, of_law)
            compare(request, asked, how, run_dir=run_dir, plot=plot)
            return
        loaded = grids[0][0].config
        with training_progress(loaded.name) as on_progress:
            result = train(
                loaded,
                device=own_device,
                dtype=torch_dtype,
                seed=request.seed,
                run_dir=run_dir,
                resume=resume,
                allow_changes=allow_changes,
                track=trackers,
                on_progress=on_progress,
                on_message=message if group.main else lambda text: None,
                command_line=how.command_line,
                group=group,
            )
    if result is not None:
        request.show([result], lambda width: train_tables([result], width), precision=how.precision)
