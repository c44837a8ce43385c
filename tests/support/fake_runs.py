"""Runs that train nothing: what a comparison makes of known losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.metrics import Metrics
from mmdit_cli.toy.runs import PlannedRun
from mmdit_cli.toy.train_result import TrainResult
from mmdit_cli.toy.trainer import Diverged
from tests.support.toy import tiny


def named(name: str, depth: int = 1, **settings: Any) -> ToolConfig:
    config = tiny(**settings)
    return replace(config, name=name, model=replace(config.model, depth=depth))


def fake_train(losses: dict[tuple[str, int], float], ran: list[tuple[str, int]]) -> Any:
    """Trains nothing: a loss for each config and seed, and one evaluation with full accuracy at step 30."""

    def run(planned: PlannedRun, *tell: Any) -> TrainResult:
        config, seed, folder = planned.config, planned.seed, planned.folder
        ran.append((config.name, seed))
        folder.mkdir(parents=True)
        metrics = Metrics(folder)
        metrics.append({"step": 30, "loss": 1.0, "seconds": 3.0})
        metrics.append({"step": 30, "accuracy": {"image": 1.0}})
        metrics.close()
        if (config.name, seed) not in losses:
            raise Diverged("the loss is nan at step 31, beginning in somewhere")
        one: Any = {"image": 1.0}
        empty: Any = {key: {} for key in ("per_attribute", "oracle_real", "oracle_noise", "chance")}
        loss = {"first": 2.0, "last": losses[config.name, seed]}
        return TrainResult(
            config=config.name, seed=seed, steps=30, parameters=1, loss=loss, accuracy=one, held_out=one,
            agreement=1.0, samples=8, steps_per_s=10.0, run_dir=str(folder), files={"metrics": str(metrics.path)},
            **empty,
        )  # fmt: skip

    return run
