"""Signals that ask a training to end: noted, so that the step finishes first."""

__all__ = ["Signals"]

import contextlib
import signal
import threading
from typing import Self


class Signals(contextlib.AbstractContextManager):
    """A context in which SIGTERM and SIGINT are noted; a second one acts as usual.

    Attributes:
        received: number of the signal that was received, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        self.received = number
        self._put_back()

    def __exit__(self, *error):
        self._put_back()

    def _put_back(self):
        while self._before:
            signal.signal(*self._before.popitem())
