"""Who has the graphics card: the program that draws pictures, or a training. The one lends it to the other.

While a training goes on, whoever wants to draw waits and is told why, or draws beside it, as the person has set it.
Whether one goes on is asked anew each time, of the runs' directories: a card can't stay lent because something here
failed, and a training that was found again after a restart borrows it like any other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from ..errors import Message

# What may be set: pictures wait; the memory is freed once and pictures are drawn all the same; nothing is freed.
WAIT, SHARE, KEEP = "wait", "share", "keep"
MODES = (WAIT, SHARE, KEEP)
_POLL_S = 1.0
_log = logging.getLogger(__name__)


class Lease:
    """``release`` gives the card's memory away and ``take_back`` fetches it again, both with ``lock`` held: that of
    whoever draws, whose ``acquire`` takes ``blocking``. ``mode`` is one of ``MODES``."""

    def __init__(
        self,
        *,
        release: Callable[[], None],
        take_back: Callable[[], None],
        lock: Callable[[], Any],
        mode: Callable[[], str] = lambda: WAIT,
    ) -> None:
        self._release, self._take_back, self._lock, self._mode = release, take_back, lock, mode
        # What is said to whoever waits; None as long as no training has the card. Set by whoever knows of trainings.
        self.going_on: Callable[[], Message | None] = lambda: None
        self._changed = threading.Condition()
        self._lent = False
        self._shared = False
        self._waiting = 0

    # ------------------------------------------------------------------------------------------- the training's side

    def lend(self, busy: bool) -> bool:
        """A training is about to start or goes on, or (``busy`` false) none does any more.

        Returns whether it may start: not as long as a picture is being drawn, whose memory it needs.
        """
        if not busy:
            self._give_back()
            return True
        if self._lent or self._mode() == KEEP:
            return True
        lock = self._lock()
        if not lock.acquire(blocking=False):
            return False
        try:
            self._lent = True
            self._release()
        except Exception:  # the edge: a webui that has changed must not keep anybody from training
            _log.exception("LoRA Atelier: the graphics card could not be freed")
        finally:
            lock.release()
        return True

    def _give_back(self) -> None:
        with self._changed:
            was, self._lent, self._shared = self._lent, False, False
            self._changed.notify_all()
        lock = self._lock()
        # Whoever holds the lock draws, or waits to: it takes the card back itself.
        if was and lock.acquire(blocking=False):
            try:
                self._take()
            finally:
                lock.release()

    # ------------------------------------------------------------------------------------------- the pictures' side

    def wait(self, say: Callable[[Message], None], *, is_cancelled: Callable[[], bool] = lambda: False) -> bool:
        """Called before a picture is drawn, by whoever holds the lock: wait until the card is free, and take it back.

        ``say`` is told each second why it waits. Returns False if that was cancelled: then there is no card.
        """
        self._waiting += 1
        try:
            while self._must_wait() and (said := self.going_on()) is not None:
                if not self._lent:
                    self._lend_what_was_loaded()
                say(said)
                if is_cancelled():
                    return False
                with self._changed:
                    self._changed.wait(_POLL_S)
        finally:
            self._waiting -= 1
        self._take()
        return True

    def _lend_what_was_loaded(self) -> None:
        """A training that was found again, or a model that was loaded while one goes on."""
        self._lent = True
        try:
            self._release()
        except Exception:  # as above
            _log.exception("LoRA Atelier: the graphics card could not be freed")

    def _must_wait(self) -> bool:
        return self._mode() == WAIT and not self._shared

    def _take(self) -> None:
        try:
            self._take_back()
        except Exception:  # the edge: the webui says itself what it lacks
            _log.exception("LoRA Atelier: the graphics card could not be taken back")

    # ------------------------------------------------------------------------------------------- the page's side

    def share(self, shared: bool) -> None:
        """Let pictures be drawn beside the training that goes on, or not any more; the next one asks again."""
        with self._changed:
            self._shared = shared
            self._changed.notify_all()

    def state(self) -> dict[str, Any]:
        """How it stands: ``mode``, whether it is ``lent`` and ``shared``, and how many pictures are ``waiting``."""
        return {
            "mode": self._mode(),
            "lent": self._lent,
            "shared": self._shared or self._mode() != WAIT,
            "waiting": self._waiting,
        }
