import typing

import pytest

from lora_atelier import events
from lora_atelier.events import Appender, Finished, Sampled, Stepped, Stopped

pytestmark = pytest.mark.torchfree

STEP = Stepped(step=3, steps=9, loss=0.5, learning_rate=1e-4, seconds_per_step=0.2, seconds_left=1.2)


def test_events_come_back_in_order_and_from_where_the_reader_was(tmp_path):
    path = tmp_path / "events.jsonl"
    log = Appender(path)
    log.add(STEP)
    first, offset = events.read(path)
    log.add(Sampled(step=3, file="花.png", prompt="a 花", seed=1))
    second, end = events.read(path, offset)

    assert [timed.event for timed in first] == [STEP]
    assert [timed.event for timed in second] == [Sampled(step=3, file="花.png", prompt="a 花", seed=1)]
    assert events.read(path, end) == ([], end)


def test_a_line_that_is_still_being_written_waits_for_the_next_call(tmp_path):
    path = tmp_path / "events.jsonl"
    Appender(path).add(STEP)
    with path.open("ab") as file:
        file.write(events.to_line(Stopped(step=3), 0.0).encode()[:10])

    found, offset = events.read(path)
    assert [timed.event for timed in found] == [STEP]

    with path.open("ab") as file:
        file.write(events.to_line(Stopped(step=3), 0.0).encode()[10:])
    assert [timed.event for timed in events.read(path, offset)[0]] == [Stopped(step=3)]


def test_a_line_torn_by_a_kill_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"kind": "stepped", "st')

    Appender(path).add(Stopped(step=4))

    assert [timed.event for timed in events.read(path)[0]] == [Stopped(step=4)]


def test_a_newer_trainers_events_and_fields_are_passed_over():
    line = events.to_line(STEP, 7.0)

    assert events.from_line(line.replace('"stepped"', '"levitated"')) is None
    assert events.from_line(line.replace('"schema": 1', '"schema": 2')) is None
    known = events.from_line(line.replace('"step": 3', '"step": 3, "mood": "good"'))
    assert known is not None and known.event == STEP and known.at == 7.0


def test_what_is_no_event_is_an_error_of_its_own():
    for line in ("[]", "{}", "nonsense", '{"kind": "finished"}'):
        with pytest.raises(ValueError):
            events.from_line(line)


def test_every_event_has_a_kind_of_its_own():
    assert tuple(events.KINDS.values()) == typing.get_args(events.Event) and len(events.KINDS) == 11
    assert events.KINDS["finished"] is Finished


def test_a_run_without_a_log_has_no_events(tmp_path):
    assert events.read(tmp_path / "none") == ([], 0)


def test_of_steps_in_a_row_only_the_last_need_be_read(tmp_path):
    path = tmp_path / "events.jsonl"
    log = Appender(path)
    for step in (1, 2, 3):
        log.add(Stepped(step=step, steps=9, loss=0.5, learning_rate=1e-4, seconds_per_step=0.2, seconds_left=1.2))
    log.add(Sampled(step=3, file="a.png", prompt='"kind": "stepped"', seed=1))
    log.add(STEP)

    found, offset = events.read(path, every_step=False)

    assert [(timed.event.kind, timed.event.step) for timed in found] == [("stepped", 3), ("sampled", 3), ("stepped", 3)]
    assert offset == path.stat().st_size
