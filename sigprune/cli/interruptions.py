"""Ctrl-C, a closed terminal and the end of a batch job stop a command at any moment; it cleans up first."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from sigprune.base.signals import waits

if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[int, FrameType | None], object] | int | None

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What is handled."""
AGAIN = 0.1
"""Seconds after which an interruption is raised again if nothing handles it."""
PATIENCE = 2
"""Signals up to which one that comes while an earlier one is being handled changes nothing."""


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop. Notes say what has become of what was to be written.

    Not KeyboardInterrupt itself: when that leaves ``exec()``, which dataclasses and named tuples call on
    import, Python kills its own process later, whoever has handled the exception.
    """


class Interruptions:
    """While the context lasts, a signal raises :class:`Interrupted` until somebody handles it.

    An exception that is raised in a weak reference's callback, in ``__del__``, in a callback of C code that
    has no way to pass it on, or inside a bare ``except`` of a library gets lost, and with it the only Ctrl-C
    that the user has sent. So an alarm looks every tenth of a second whether the interruption is being
    handled (some ``except``, ``finally`` or ``with`` is cleaning up), and raises it again if not. A second
    signal does not stop the cleaning; a third does, where a library waits for its threads, say. Signals that
    are ignored (in the background, under ``nohup``) stay ignored. Only the main thread can do this.

    Attributes:
        number: of the first signal that came; 0: none.
        over: the work is done, signals change nothing any more.
        raised: the last interruption, with its notes.
    """

    def __init__(self) -> None:
        self.number = 0
        self.over = False
        self.raised: Interrupted | None = None
        self._count = 0
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> Interruptions:
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            self._report, sys.unraisablehook = sys.unraisablehook, self._unraisable
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._take(number, self._strike)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back; what comes meanwhile is ignored."""
        del kind, error, trace
        self.over = True
        if signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if self._before:
            sys.unraisablehook = self._report

    def _take(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        self._before[number] = signal.getsignal(number)
        signal.signal(number, handler)

    def _strike(self, number: int, frame: FrameType | None) -> None:
        """The user, or the system, wants an end."""
        del frame
        self._count += 1
        if not self.number:
            self.number = number
            if hasattr(signal, "setitimer"):
                self._take(signal.SIGALRM, self._look)
                signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        self._raise(patient=self._count <= PATIENCE)

    def _look(self, number: int, frame: FrameType | None) -> None:
        """Whether the interruption got lost."""
        del number, frame
        self._raise(patient=True)

    def _raise(self, *, patient: bool) -> None:
        handled = any(isinstance(each, KeyboardInterrupt) for each in _handled())
        if not (self.over or waits(self.number) or (patient and handled)):
            self.raised = Interrupted()
            raise self.raised

    def _unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        """An interruption that gets lost comes again: nothing to report."""
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._report(unraisable)


def _handled() -> Iterator[BaseException]:
    """The exception that is being handled here or further up, and those that it came from."""
    error = sys.exception()
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
