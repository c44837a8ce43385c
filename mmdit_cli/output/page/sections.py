"""What a page says of documents and training runs, section by section."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmdit.config.yaml_text import to_yaml
from mmdit_cli.output.how_made import how_made
from mmdit_cli.output.page.galleries import Gallery, drawn_gallery, galleries
from mmdit_cli.output.page.law_plots import law_plots
from mmdit_cli.output.page.measured_plots import flops_plots, profile_plots, size_plots
from mmdit_cli.output.page.plots import Plot
from mmdit_cli.output.page.sheets import SENTENCES, Sheet, differing, listing, nested, side_by_side
from mmdit_cli.output.page.training_plots import training_plots
from mmdit_cli.output.quantities import Path, is_records, label, leaves
from mmdit_cli.output.run_files import RunFiles

Document = Mapping[str, Any]
Result = dict[str, Any]
BESIDE = (
    *("command", "mmdit_version", "torch_version", "python_version", "device", "device_name", "threads", "dtype"),
    *("seed", "precision", "command_line", "configs", "results", "samples"),
)
LONG = 40  # rows of a table that is folded

SUMMARY: dict[str, tuple[str, ...]] = {  # by command, the figures that come first
    "profile": (
        *("mode", "parallel", "processes"),
        *("batch_size", "tokens.*", "parameters", "flops", "latency_ms.median", "latency_ms.ci_low"),
        *("latency_ms.ci_high", "ratio.ratio", "ratio.low", "ratio.high", "samples_per_s", "achieved_flops_per_s"),
        *("utilization", "bound.of_measured", "memory_bytes.weights", "memory_bytes.activations", "memory_bytes.peak"),
        *("memory", "fits", "largest_batch"),
    ),
    "flops": (
        *("batch_size", "tokens.*", "parameters", "weight_bytes", "forward_flops", "backward_flops", "step_flops"),
        *("flops_per_token", "arithmetic_intensity", "training.steps", "training.hours", "training.card_hours"),
    ),
    "train-toy": (
        *("seed", "steps", "parameters", "loss.last", "accuracy.*", "held_out.*", "chance.*", "agreement"),
        *("steps_per_s", "any_to_any.*"),
    ),
    "sample": ("caption", "reads.*", "right.*", "training_steps", "steps", "guidance"),
}
PLOTS: dict[str, Callable[[Sequence[Result]], list[Plot]]] = {
    "profile": profile_plots,
    "flops": flops_plots,
    "configs": size_plots,
}


@dataclass
class Section:
    """`about`: names and values. `configs`: names, and the files' texts. `commands`: what to type for the same."""

    title: str
    about: list[tuple[str, str]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    gallery: list[Gallery] = field(default_factory=list)
    configs: list[tuple[str, str]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    made: list[tuple[str, str]] = field(default_factory=list)


def document_section(documents: Sequence[tuple[str, Document]], runs: Sequence[RunFiles] = ()) -> Section:
    """All documents of one command together, each with the name of its file, and their runs."""
    command = str(documents[0][1]["command"])
    results = _named(documents)
    section = Section(command, commands=[_typed(document) for _, document in documents if _typed(document)])
    swept = any(result.get("point") for result in results)
    paths = list(dict.fromkeys(path for result in results for path, _ in leaves(result)))
    first = _chosen(paths, SUMMARY.get(command, ("*",)))
    if swept:
        points = [path for path in paths if path[0] == "point"]
        rows = [{**result, "tokens": {}} for result in results]
        section.sheets.append(listing("points", [_only(row, [("config",), *points, *first]) for row in rows]))
    else:
        section.sheets.append(side_by_side("summary", results, first))
    section.plots += PLOTS.get(command, lambda results: [])(results)
    for result in results if not swept else ():
        section.sheets += _records_of(result, several=len(results) > 1)
    for name, document in documents:
        _beside(section, document, f"{name}: " if len(documents) > 1 else "")
    if set(paths) - set(first) - {("config",)}:
        every = listing("all figures", results) if swept else side_by_side("all figures", results, paths)
        section.sheets.append(replace(every, folded=True))
    beside = [(key,) for each in (*results, *(document for _, document in documents)) for key in each]
    section.made = how_made([*paths, *beside])
    _runs(section, runs, [document for _, document in documents])
    section.gallery += [
        gallery for name, document in documents if (gallery := drawn_gallery(name or command, document))
    ]
    _configs(section, [config for _, document in documents for config in document.get("configs") or ()])
    return section


def runs_section(runs: Sequence[RunFiles]) -> Section:
    """Training runs that were not compared."""
    section = Section("training runs")
    rows: list[Result] = []
    for run in runs:
        losses = [record["loss"] for record in run.records if "loss" in record]
        shares: Result = next((record for record in reversed(run.records) if "accuracy" in record), {})
        seconds = max((record.get("seconds", 0.0) for record in run.records), default=0.0)
        row: Result = {"config": run.name, "seed": run.seed, "steps": run.steps, "loss": losses[-1] if losses else None}
        row |= {key: shares[key] for key in ("accuracy", "held_out") if key in shares}
        row |= {"steps_per_s": run.steps / seconds if seconds else None, "folder": str(run.folder)}
        rows.append(row)
        if line := run.about.get("command_line"):
            section.commands.append(shlex.join(map(str, line)))
    section.sheets.append(listing("runs", rows))
    section.made = how_made([path for row in rows for path, _ in leaves(row) if path != ("loss",)])
    _about(section, runs[0].about, "")
    _runs(section, runs, [])
    _configs(section, [run.config for run in runs if run.config])
    return section


def _runs(section: Section, runs: Sequence[RunFiles], documents: Sequence[Document]) -> None:
    """Curves and pictures."""
    designs: dict[str, list[RunFiles]] = {}
    for run in runs:  # a curve is the mean over seeds of one config
        alike = all(other.config == run.config for other in runs if other.name == run.name)
        designs.setdefault(run.name if alike else f"{run.name} ({run.folder.name})", []).append(run)
    section.plots += [plot for d in documents for plot in law_plots(d.get("law") or {})]
    compared = [design for d in documents for design in (d.get("comparison") or {}).get("designs", ())]
    section.plots += training_plots(designs, {d["config"]: d["step_flops"] for d in compared})
    section.gallery, left_out = galleries(runs)
    section.notices += [left_out] * bool(left_out)


def _configs(section: Section, configs: Sequence[Mapping[str, Any]]) -> None:
    """What differs in them, and each as it would be written."""
    distinct: list[Mapping[str, Any]] = []
    for config in configs:
        if config not in distinct:
            distinct.append(config)
    named = [(str(config.get("name", number)), config) for number, config in enumerate(distinct, 1)]
    if apart := differing(named):
        section.sheets.append(apart)
    section.configs += [(name, to_yaml(dict(config))) for name, config in named]


def name_of(result: Mapping[str, Any]) -> str:
    """What a result is called: its config, or of weights of which none is known, their file."""
    return str(result.get("config") or result.get("file") or "")


def _named(documents: Sequence[tuple[str, Document]]) -> list[Result]:
    """The results of all documents; those of several are told apart by their files, where their configs are alike."""
    results = [(name, _of_limits(document, result)) for name, document in documents for result in document["results"]]
    names = [{name_of(result) for result in document["results"]} for _, document in documents]
    twice = len(set().union(*names)) < sum(map(len, names))
    return [{**each, "config": f"{name_of(each)} ({name})" if twice else name_of(each)} for name, each in results]


def _of_limits(document: Document, result: Result) -> Result:
    """The result, without what bounds it where the machine was too busy for that to be known."""
    if (document.get("conditions") or {}).get("quiet", True):
        return dict(result)

    def without(record: Any) -> Any:
        bound = record.get("bound")
        return (
            record if bound is None else {**record, "bound": {"bytes": bound["bytes"], "intensity": bound["intensity"]}}
        )

    more = {"components": [without(each) for each in result["components"]]} if "components" in result else {}
    return {**without(result), **more}


def _chosen(paths: Sequence[Path], wanted: Sequence[str]) -> list[Path]:
    """The paths that one of the wanted has, in their order; `tokens.*` is every one that begins so, `*` is each."""
    found: dict[Path, None] = {}
    for key in wanted:
        start = tuple(key.removesuffix("*").strip(".").split(".")) if key != "*" else ()
        for path in paths:
            if path == start or (key.endswith("*") and path[: len(start)] == start):
                found[path] = None
    return [path for path in found if path != ("config",)]


def _only(result: Result, paths: Sequence[Path]) -> Result:
    """The figures under these paths, as a result."""
    kept: Result = {}
    found = dict(leaves(result))
    for path in paths:
        if path in found:
            place = kept
            for key in path[:-1]:
                place = place.setdefault(key, {})
            place[path[-1]] = found[path]
    return kept


def _records_of(result: Result, *, several: bool) -> Iterator[Sheet]:
    """The lists of records that a result has."""
    for key, value in result.items():
        title = f"{result.get('config')}: {label((key,))}" if several else label((key,))
        if is_records(value):
            yield listing(title, value, folded=len(value) > LONG)
        elif isinstance(value, Mapping):
            for inner, records in value.items():
                if is_records(records):
                    yield listing(f"{title}, {label((inner,))}", records, folded=True)


def _beside(section: Section, document: Document, title: str) -> None:
    """What a document says beside its results."""
    _about(section, document, title)
    for key, value in document.items():
        if key in BESIDE:
            continue
        if isinstance(value, Mapping):
            section.notices += [f"{title}{text}" for text in (text for key in SENTENCES for text in value.get(key, ()))]
        section.sheets += nested(title + label((key,)), value)


def _about(section: Section, document: Mapping[str, Any], title: str) -> None:
    if "torch_version" not in document:
        return
    machine = f"{document.get('device_name')} ({document.get('device')}, {document.get('threads')} threads)"
    versions = [
        f"{each} {document[f'{each}_version']}"
        for each in ("mmdit", "torch", "python")
        if f"{each}_version" in document
    ]
    section.about += [
        (f"{title}machine", machine),
        (f"{title}versions", ", ".join(versions)),
        (f"{title}numbers", f"{document.get('dtype')}, seed {document.get('seed')}"),
    ]


def _typed(document: Document) -> str:
    return shlex.join(map(str, document.get("command_line") or ()))
