"""What `huggingface_hub` raises, as one message that says why and what to do."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmdit.weights.header import CheckpointError, named
from mmdit.weights.hub.tokens import masked

__all__ = ["explained", "is_unreached"]

# of its HTTP client, whose package has another name in each version
_CONNECTION = {"NetworkError", "TimeoutException", "RemoteProtocolError", "ProxyError"}
_HTTP = {"HTTPError", "InvalidURL"}
_NO_ROOM = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT)


def is_unreached(error: BaseException) -> bool:
    """Whether nobody answered, or a server that is out of order: then what is in the cache may be taken. Who is refused
    is to know it, rather than to get what was there once."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return bool(status >= 500)
    return isinstance(error, (ConnectionError, TimeoutError)) or _is_one_of(error, _CONNECTION)


@contextmanager
def explained(hub: Any, name: str, revision: str | None) -> Iterator[None]:
    """What the package raises as one error, and nothing that it logs."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = _reason(hub, name, revision, error)
        if reason is None:
            raise CheckpointError(f"{name}: could not be had from the Hub ({_told(error)})") from error
        raise CheckpointError(f"{name}: {masked(reason)}") from None
    finally:
        logger.setLevel(level)


def _reason(hub: Any, name: str, revision: str | None, error: BaseException) -> str | None:
    errors, endpoint = hub.errors, hub.constants.ENDPOINT
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # the connection was lost between two questions
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"is gated; agree to its terms at {endpoint}/{name}, then sign in by hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"is no file or folder here, and {endpoint} has no such repository, or a private one (hf auth login)"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {named(str(revision))}"
    if isinstance(error, errors.HFValidationError):
        return "is no file or folder here, and no name of a repository"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "is no file or folder here, and not in the Hub's cache; HF_HUB_OFFLINE is set, so nobody was asked"
    if status in (401, 403):
        return f"{endpoint} refused it ({status}); sign in by hf auth login, or pass another token"
    if status == 429:
        return f"{endpoint} had too many requests (429); wait, or sign in by hf auth login"
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return f"can't be kept in the cache {hub.constants.HF_HUB_CACHE}: {error.strerror}"
    if isinstance(error, OSError) or _is_one_of(error, _HTTP):
        return f"{endpoint} gave no whole answer ({_told(error)}); try again, what came of a download is kept"
    return None


def _is_one_of(error: BaseException, names: set[str]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _told(error: BaseException) -> str:
    said = next(iter(str(error).splitlines()), "")
    return named(masked(f"{type(error).__name__}: {said}" if said else type(error).__name__))
