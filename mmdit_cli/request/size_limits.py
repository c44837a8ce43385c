"""What no machine holds: sizes that multiply to more than 63 bits, as torch finds when it makes their tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mmdit.options import as_data
from mmdit_cli.errors import UserError
from mmdit_cli.output.renderings import flat

if TYPE_CHECKING:
    from mmdit_cli.request.tool_config import ToolConfig

NAMED = 3


@contextmanager
def possible(config: ToolConfig) -> Iterator[None]:
    """Torch's errors about sizes, as a message that names the config and its largest sizes.

    Raises:
        UserError: a tensor would have more elements or bytes than 63 bits count.
    """
    try:
        yield
    except (RuntimeError, TypeError, OverflowError) as error:
        if is_overflow(error):
            raise too_large(config) from error
        raise


def is_overflow(error: Exception) -> bool:
    """Whether torch found a size that 63 bits do not hold; its types differ by the function that is called."""
    return isinstance(error, OverflowError) or any(sign in str(error).lower() for sign in ("overflow", "'size'"))


def too_large(config: ToolConfig) -> UserError:
    """The refusal, with the sizes to look at."""
    leaves = flat(as_data({"model": config.model, "run": config.run}))
    sizes = sorted(((x, key) for key, x in leaves if isinstance(x, (int, float))), reverse=True)
    named = ", ".join(f"{key}={size:.15g}" for size, key in sizes[:NAMED])
    return UserError(f"{config.name}: is larger than any machine; its largest sizes are {named}")
