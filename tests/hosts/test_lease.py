"""The graphics card is lent to trainings and comes back, whatever happens; whoever draws waits and is told why."""

import threading
import time

import pytest

from lora_atelier.errors import message
from lora_atelier.hosts import lease as leases
from lora_atelier.hosts.lease import KEEP, SHARE, Lease

pytestmark = pytest.mark.torchfree


class Card:
    """A card, the lock of whoever draws, and a training that goes on or does not."""

    def __init__(self):
        self.lock, self.mode, self.training, self.told = threading.Lock(), "wait", None, []
        self.lease = Lease(
            release=lambda: self.told.append("released"),
            take_back=lambda: self.told.append("taken back"),
            lock=lambda: self.lock,
            mode=lambda: self.mode,
        )
        self.lease.going_on = lambda: self.training
        self.said = []

    def draw(self, cancelled=lambda: False):
        with self.lock:
            return self.lease.wait(self.said.append, is_cancelled=cancelled)

    def drawing(self):
        thread = threading.Thread(target=self.draw)
        thread.start()
        return thread


@pytest.fixture
def card(monkeypatch):
    monkeypatch.setattr(leases, "_POLL_S", 0.02)
    return Card()


def until(what):
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_picture_waits_while_a_training_goes_on_and_says_why(card):
    assert card.lease.lend(True)
    card.training = message("LoRA training: step {step}.", step=3)
    drawing = card.drawing()
    until(lambda: card.said)
    assert drawing.is_alive() and str(card.said[0]) == "LoRA training: step 3."
    assert card.lease.state() == {"mode": "wait", "lent": True, "shared": False, "waiting": 1}

    card.training = None
    card.lease.lend(False)

    drawing.join(10)
    assert not drawing.is_alive() and card.told[0] == "released" and card.told[-1] == "taken back"
    assert card.lease.state()["waiting"] == 0


def test_a_training_does_not_start_while_a_picture_is_drawn(card):
    with card.lock:
        assert not card.lease.lend(True)
    assert card.told == []

    assert card.lease.lend(True)
    assert card.told == ["released"]


def test_a_training_that_starts_while_a_picture_waits_needs_no_lock(card):
    card.lease.lend(True)
    card.training = message("One.")
    drawing = card.drawing()
    until(lambda: card.said)

    assert card.lease.lend(True)  # the next of the queue

    card.training = None
    drawing.join(10)
    assert not drawing.is_alive()


def test_a_picture_gets_the_card_also_where_nobody_told_that_the_training_ended(card):
    """The thread that tells it may have died, or the run's process was found dead by nobody yet."""
    card.lease.lend(True)
    card.training = message("One.")
    drawing = card.drawing()
    until(lambda: card.said)

    card.training = None

    drawing.join(10)
    assert not drawing.is_alive() and card.told == ["released", "taken back"]


def test_a_training_that_was_found_again_gets_the_card_before_the_first_picture(card):
    card.training = message("One.")  # started by a program that is gone
    drawing = card.drawing()
    until(lambda: card.said)

    assert card.told == ["released"]
    card.training = None
    drawing.join(10)


@pytest.mark.parametrize(("mode", "told"), [(SHARE, ["released", "taken back"]), (KEEP, ["taken back"])])
def test_pictures_are_drawn_beside_a_training_where_it_is_set_so(card, mode, told):
    card.mode = mode
    card.lease.lend(True)
    card.training = message("One.")

    assert card.draw() and card.said == []
    assert card.told == told


def test_the_card_is_shared_with_the_training_that_goes_on_and_not_with_the_next(card):
    card.lease.lend(True)
    card.training = message("One.")
    drawing = card.drawing()
    until(lambda: card.said)

    card.lease.share(True)

    drawing.join(10)
    assert not drawing.is_alive() and card.lease.state()["shared"]
    card.training = None
    card.lease.lend(False)
    assert not card.lease.state()["shared"]


def test_a_picture_that_was_cancelled_does_not_wait(card):
    card.lease.lend(True)
    card.training = message("One.")

    assert not card.draw(cancelled=lambda: True)

    assert "taken back" not in card.told


def test_a_webui_that_fails_at_it_keeps_nobody_from_training_or_drawing(card):
    def fail():
        raise AttributeError("this webui has changed")

    broken = Lease(release=fail, take_back=fail, lock=lambda: card.lock)

    assert broken.lend(True)
    assert broken.lend(False)
    assert broken.wait(card.said.append)
    assert card.lock.acquire(blocking=False)
