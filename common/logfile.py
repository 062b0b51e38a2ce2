"""What a command does, with times, in a file: `--log-file`."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

log = logging.getLogger("medpair")
log.propagate = False
log.addHandler(logging.NullHandler())


class Session:
    """One command from its first word to its exit code.

    Args:
        words: the command line without the program's name, the first line of the file.
    """

    def __init__(self, words: Sequence[str] = ()) -> None:
        self.words, self.stack = words, ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stack.close()

    def open(self, *, quiet: bool, log_file: Path | None) -> None:
        """Choose where log records and warnings go until the command ends.

        Args:
            quiet: those of libraries do not reach standard error.
            log_file: gets all records, after what it holds; None writes none.

        Raises:
            OSError: the file cannot be written.
        """
        if not quiet and log_file is None:
            return
        root = logging.getLogger()
        if log_file is not None:
            handler = logging.FileHandler(log_file, encoding="utf-8")
            self.stack.callback(handler.close)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            for logger in (root, log):
                self._add(logger, handler)
                self._level(logger, logging.INFO)
        self._add(root, logging.NullHandler() if quiet else _console())
        logging.captureWarnings(True)
        self.stack.callback(logging.captureWarnings, False)
        log.info(shlex.join(["medpair", *self.words]))

    def _add(self, logger: logging.Logger, handler: logging.Handler) -> None:
        logger.addHandler(handler)
        self.stack.callback(logger.removeHandler, handler)

    def _level(self, logger: logging.Logger, level: int) -> None:
        self.stack.callback(logger.setLevel, logger.level)
        logger.setLevel(level)


def _console() -> logging.Handler:
    """Return what Python takes where no handler is set: warnings go to standard error."""
    assert logging.lastResort is not None
    return logging.lastResort
