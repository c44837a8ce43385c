"""The process: `mmdit`, and `python -m mmdit_cli`. Signals count from here on, before anything slow is imported."""

from __future__ import annotations

import os
import sys

from mmdit_cli import interrupts


def main() -> None:
    """Run the command line in a process of its own; see `mmdit_cli.app.main`."""
    for name in ("stdin", "stdout", "stderr"):  # closed by the caller (`>&-`)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    os.environ.pop("MPLBACKEND", None)  # no window is opened, and a name that matplotlib does not know stops its import
    code: object = 1
    try:
        with interrupts.interruptible():
            try:
                from mmdit_cli.app import main as run

                run()
            except SystemExit as stop:
                code = stop.code
            except Exception:
                if not interrupts.caught():  # a library's import may make its own error of an interrupt
                    raise
                raise KeyboardInterrupt from None
    except KeyboardInterrupt:
        print("error: terminated" if interrupts.exit_code() != 130 else "error: interrupted", file=sys.stderr)
        code = interrupts.exit_code()
    interrupts.let_die()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
