"""The Typer app: which commands there are, and what an error becomes."""

from __future__ import annotations

import errno
import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mmdit_cli import __version__
from mmdit_cli.commands import configs, schema
from mmdit_cli.commands.bash_words import bash_words
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.export import command as export
from mmdit_cli.flops import command as flops
from mmdit_cli.interrupts import caught, exit_code, forget
from mmdit_cli.output.console import error, is_main, printable
from mmdit_cli.plan import command as plan
from mmdit_cli.profile import command as profile
from mmdit_cli.report import command as report
from mmdit_cli.shape_check import command as shape_check
from mmdit_cli.toy import command as train_toy
from mmdit_cli.toy import sample_command as sample


class _Group(TyperGroup):
    """Commands, whose usage errors quote what was typed spelled out, as every other message does."""

    def make_context(self, *given: Any, **named: Any) -> Any:
        with _spelled_out():
            return super().make_context(*given, **named)

    def invoke(self, ctx: Any) -> Any:
        with _spelled_out():
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Each with its first sentence whole, on as many lines as it takes."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(1000)) for name, each in self.commands.items()])


@contextmanager
def _spelled_out() -> Iterator[None]:
    try:
        yield
    except Exception as problem:
        if hasattr(problem, "format_message"):  # Typer's own, which it shows later
            problem.message = printable(problem.message)  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    name="mmdit",
    cls=_Group,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help wraps on a narrow screen, where panels would cut the flags
    context_settings={"help_option_names": ["-h", "--help"]},
)


UNWRITTEN = (errno.ENOSPC, errno.EFBIG, errno.EIO)  # without a file's name: of standard output


class _Stopped(SystemExit):
    """The end of a command that was interrupted, and has said so."""


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with every error turned into one message and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            raise _Stopped(_interrupted(str(interrupt))) from None
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            raise typer.Exit(_no_more_output()) from None
        except Exception as problem:
            if kwargs.get("debug"):
                traceback.print_exc()
            if caught():  # a library made an error of its own of it
                raise _Stopped(_interrupted("")) from None
            raise typer.Exit(_report(problem)) from None

    return run


for _command in (profile, flops, plan, shape_check, train_toy, sample, export, report, configs, schema):
    app.command(_command.NAME)(_guarded(_command.command))


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mmdit {__version__}")
        raise typer.Exit


START = f"""mmdit {__version__}: what a multimodal diffusion transformer costs, before it trains.
Three commands to try:

  mmdit flops -c sd3-medium             what it takes, by component
  mmdit profile -c two-modality         how fast it is here, and why
  mmdit train-toy -c toy-two-modality   does it learn? A minute on two cores

mmdit --help names the others, and mmdit configs the networks that -c takes."""


@app.callback()
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Profile, check, count, train and export multimodal diffusion transformers (MMDiT) that a YAML file describes.

    Example: mmdit profile --config configs/two-modality.yaml
    """
    if ctx.invoked_subcommand is None:
        print(START)


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 checked and not so, 2 a wrong request, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM).
    """
    forget()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # a home that can't be written is no news
    output = sys.stdout
    try:
        os.getcwd()
    except OSError:
        error("the working directory is gone; change to one that exists")
        raise SystemExit(2) from None
    try:
        with bash_words():
            app(prog_name="mmdit")
        code: Any = 0
    except _Stopped as stop:
        code = stop.code
    except SystemExit as stop:  # 130: Typer was interrupted while it read the arguments, and says nothing
        code = stop.code if stop.code != 130 else _interrupted("")
        if code == 1 and sys.stdout is not output:  # what Typer does where nobody reads its help
            sys.stdout, code = output, _no_more_output()
    except OSError as problem:  # of Typer's own output, such as help
        code = _no_more_output() if isinstance(problem, BrokenPipeError) else _report(problem)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _no_more_output()
    except OSError as problem:
        _no_more_output()
        error(f"standard output: {problem.strerror or problem}")
        code = 2
    raise SystemExit(code)


def _interrupted(message: str) -> int:
    """Say that the command was stopped; returns the exit code."""
    if is_main():
        error(message or ("terminated" if exit_code() != 130 else "interrupted"))
    return exit_code()


def _report(problem: Exception) -> int:
    """Say what went wrong, and which exit code that is."""
    say = error if is_main() else lambda text: None  # what all of several processes find, the first one says
    if isinstance(problem, CheckFailed):
        say(str(problem))
        return 1
    if isinstance(problem, UserError):
        say(_one_line(problem))
        return 2
    from mmdit.config.yaml_document import ConfigError
    from mmdit.weights.saved_model import CheckpointError

    if isinstance(problem, (ConfigError, CheckpointError)):
        say(str(problem) if isinstance(problem, ConfigError) else _one_line(problem))  # a config's: a line a problem
        return 2
    if _out_of_memory(problem):
        error("not enough memory for this; a smaller batch, fewer tokens or fewer blocks would need less")
        return 2
    if isinstance(problem, ValueError):  # a model that can't be built or fed as the config says
        error(str(problem))
        return 2
    if isinstance(problem, OSError) and problem.errno is not None:  # no space, no permission, a folder in the way
        if problem.filename is None and problem.errno == errno.ENOSPC:
            _no_more_output()  # what could not be printed must not be tried again at the end
        place = _one_line(problem.filename or ("standard output" if problem.errno in UNWRITTEN else ""))
        error(": ".join(filter(None, (place, problem.strerror))))
        return 2
    first = (str(problem).strip() or type(problem).__name__).splitlines()[0]
    error(f"unexpected {type(problem).__name__}: {first} (--debug shows where; please report it)")
    return 1


def _one_line(text: object) -> str:
    """Of what may hold a path or a name, with a line break of its own."""
    return str(text).replace("\n", "\\n")


NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "_STATUS_ALLOC_FAILED")  # torch's words


def _out_of_memory(problem: Exception) -> bool:
    return isinstance(problem, MemoryError) or any(words in str(problem) for words in NO_MEMORY)


def _no_more_output() -> int:
    """Print nothing more. Whoever read our output has gone (`| head`): that is no error, so the exit code is 0."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
