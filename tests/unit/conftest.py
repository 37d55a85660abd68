"""What a test changes in the process ends with the test."""

from __future__ import annotations

import logging

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logging_ends_with_the_test():
    # The command sends all events to the stderr of its time. Under capture that file is closed after the test, and
    # every event of every later test would fail on it.
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    structlog.reset_defaults()
    for handler in set(logging.root.handlers) - set(handlers):
        logging.root.removeHandler(handler)
    logging.root.setLevel(level)
