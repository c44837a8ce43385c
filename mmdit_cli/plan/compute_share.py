"""Which share of a card's peak computing reaches: as it was stated, or as `profile` measured it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdit_cli.errors import UserError
from mmdit_cli.plan.machine import Machine
from mmdit_cli.request.earlier_document import read_document
from mmdit_cli.request.numbers import read_share

OPTION = "--utilization"


def read_compute_share(text: str, machine: Machine) -> tuple[float, str | None]:
    """A share, and the report that it was measured in: model FLOP/s of forward and backward over the peak of the card
    that was measured, or, of another one than is planned for, over the ceiling that was measured there.

    Raises:
        UserError: it is neither a share nor such a report.
    """
    if not text.endswith(".json"):
        return read_share(text, OPTION), None
    document = read_document(Path(text), OPTION, "profile")
    if (measured := document.get("dtype")) != machine.precision:
        raise UserError(f"{OPTION} {text}: measured in {measured}, where the peak is of {machine.precision}")
    results = [result for result in document["results"] if isinstance(result, dict)]
    trained = [result for result in results if result.get("mode") == "train" and "ranks" not in result]
    if not trained:
        raise UserError(
            f"{OPTION} {text}: has no training step of one process; write it by mmdit profile --mode train --report"
        )
    try:
        rate, ceiling = _rate(trained[0]), float(trained[0]["ceiling"]["gemm_flops_per_s"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise UserError(f"{OPTION} {text}: lacks flops, phases_ms or ceiling; write it anew") from None
    name = str(document.get("device_name"))
    same = _plain(machine.card) in _plain(name) and "pcie" not in _plain(name)  # which is another card
    share = rate / (machine.flops_per_s if same else ceiling)
    if not 0 < share <= 1:
        raise UserError(f"{OPTION} {text}: {share:.3g} of the peak is no share")
    return share, f"{text}, of {name}'s {'peak' if same else 'measured ceiling'}"


def _rate(result: Mapping[str, Any]) -> float:
    """Model FLOP/s of forward and backward, the optimizer's step apart."""
    return float(result["flops"] / (result["phases_ms"]["forward"] + result["phases_ms"]["backward"]) * 1e3)


def _plain(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign.isalnum())
