"""What the hub's thread logs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

__all__ = ["log_safely"]


def log_safely(log: logging.Logger, level: int, text: str, *args: Any, error: BaseException | None = None) -> None:
    """Log something; a handler of the program that raises must neither end this thread nor what it was doing."""
    with contextlib.suppress(BaseException):
        log.log(level, text, *args, exc_info=error)
