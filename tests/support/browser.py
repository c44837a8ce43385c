"""Pages in a headless Chromium: what they say in the console, what they ask the network for, what axe-core finds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class Opened:
    """A page, with what went wrong in it and what it asked for beside itself."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Any, path: Path, width: int = 1600, colours: Literal["light", "dark"] = "light", *, policy: bool = True
) -> Iterator[Opened]:
    """The page at a width. Without its `policy` the tests' own scripts may run in it."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=colours, bypass_csp=not policy, reduced_motion="reduce"
    )
    shown = Opened(context.new_page())
    shown.page.on("console", lambda said: shown.errors.append(said.text) if said.type in ("error", "warning") else None)
    shown.page.on("pageerror", lambda error: shown.errors.append(str(error)))
    shown.page.on("request", lambda request: shown.requests.append(request.url))
    address = path.resolve().as_uri()
    shown.page.goto(address)
    shown.requests = [each for each in shown.requests if each != address and not each.startswith("data:")]
    yield shown
    context.close()


def overflowing(page: Any) -> list[str]:
    """The elements that reach beyond the screen, but for what scrolls within its own box."""
    found: list[str] = page.evaluate(
        """() => [...document.body.querySelectorAll("*")].filter((each) => {
            const box = each.getBoundingClientRect();
            return box.width > 0 && box.right > innerWidth + 1 && !each.closest(".scroll, pre, svg, .skip, .hidden");
        }).map((each) => each.outerHTML.slice(0, 120))"""
    )
    return found


def accessibility_faults(page: Any) -> list[str]:
    """What axe-core finds, each with its rule and the first element."""
    from axe_playwright_python.sync_playwright import Axe

    results = Axe().run(page)
    return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in results.response["violations"]]
