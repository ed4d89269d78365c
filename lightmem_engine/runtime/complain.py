"""Failures in the log. Their words may quote what somebody said (a model server repeats a prompt, a parser its input),
so they are for those who debug; everybody else reads what failed and of which kind it was."""

from __future__ import annotations

import logging


def complain(logger: logging.Logger, what: str, error: BaseException, level: int = logging.WARNING) -> None:
    """Say what failed, with the kind of the error; its words and its trace at debug."""
    logger.log(level, "%s: %s", what, type(error).__name__)
    logger.debug("%s, in detail", what, exc_info=error)
