import pytest
from tests.jobs.fakes import FAKE_TRAINER, wait_for

from lora_atelier.errors import JobError
from lora_atelier.jobs.queue import Queue
from lora_atelier.jobs.service import Jobs

pytestmark = pytest.mark.torchfree


@pytest.fixture
def queue(jobs):
    return Queue(jobs)


def named(queue):
    return [run.job().name for run in queue.waiting()]


def behave(run, how):
    (run.path / "behave").write_text(how)
    return run


def until_stopped(jobs, form, queue):
    """A run that goes on until it is stopped: the trainer reads how to behave before its first step."""
    run = behave(jobs.create(form), "wait")
    queue.add(run)
    wait_for(jobs, run, "running")
    return run


def change(form, **changes):
    import dataclasses

    return dataclasses.replace(form, **changes)


def test_the_first_starts_at_once_and_the_others_one_after_the_other(jobs, form, queue):
    first = until_stopped(jobs, form, queue)
    second, third = queue.submit(change(form, name="b")), queue.submit(change(form, name="c"))

    assert named(queue) == ["b", "c"]
    queue.stop(first)
    wait_for(jobs, first, "stopped")
    queue.tick()
    assert named(queue) == ["c"]
    wait_for(jobs, second, "finished")
    queue.tick()
    wait_for(jobs, third, "finished")
    assert named(queue) == []


def test_the_order_can_be_changed_and_is_that_of_the_next_process_too(jobs, form, queue):
    until = until_stopped(jobs, form, queue)
    runs = [queue.submit(change(form, name=name)) for name in "bcd"]

    queue.move(runs[2], 0)
    queue.move(runs[0], 99)

    assert named(queue) == ["d", "c", "b"]
    assert named(Queue(Jobs(jobs.data_dir, command=FAKE_TRAINER))) == ["d", "c", "b"]
    queue.stop(runs[1])
    assert named(queue) == ["d", "b"]
    with pytest.raises(JobError, match="does not wait"):
        queue.move(runs[1], 0)
    for run in runs:
        queue.remove(run)
    queue.stop(until)
    wait_for(jobs, until, "stopped")


def test_a_paused_run_holds_the_queue_until_it_goes_on(jobs, form, queue):
    first = until_stopped(jobs, form, queue)
    queue.submit(change(form, name="b"))

    queue.pause(first)
    wait_for(jobs, first, "stopped")
    queue.tick()

    assert named(queue) == ["b"] and jobs.view(first).paused and jobs.running() is None
    behave(first, "finish")
    queue.resume(first)
    wait_for(jobs, first, "finished")
    queue.tick()
    assert named(queue) == []


def test_stopping_a_paused_run_lets_the_queue_go_on(jobs, form, queue):
    first = until_stopped(jobs, form, queue)
    second = queue.submit(change(form, name="b"))
    queue.pause(first)
    wait_for(jobs, first, "stopped")

    queue.stop(first)
    queue.tick()

    wait_for(jobs, second, "finished")


def test_a_run_that_goes_on_comes_before_those_that_wait(jobs, form, queue):
    stopped = until_stopped(jobs, form, queue)
    queue.stop(stopped)
    wait_for(jobs, stopped, "stopped")
    other = until_stopped(jobs, change(form, name="b"), queue)
    queue.submit(change(form, name="c"))

    queue.resume(stopped)

    assert named(queue) == [stopped.job().name, "c"]
    queue.stop(other)
    wait_for(jobs, other, "stopped")


def test_what_waits_is_a_snapshot_of_its_pictures_and_answers(jobs, form, queue, pictures):
    first = until_stopped(jobs, form, queue)
    waiting = queue.submit(change(form, name="b", keep_pictures=True))
    for path in pictures.iterdir():
        path.unlink()

    queue.stop(first)
    wait_for(jobs, first, "stopped")
    queue.tick()

    wait_for(jobs, waiting, "finished")
    assert len(list(waiting.pictures_dir.glob("*.png"))) == 6


def test_a_run_that_can_not_start_says_so_and_the_next_has_its_turn(jobs, form, queue, monkeypatch):
    first = until_stopped(jobs, form, queue)
    broken, good = queue.submit(change(form, name="b")), queue.submit(change(form, name="c"))
    start = jobs.start
    monkeypatch.setattr(jobs, "start", lambda run: fail() if run.path == broken.path else start(run))

    def fail():
        raise JobError("There is no environment to train in.")

    queue.stop(first)
    wait_for(jobs, first, "stopped")
    queue.tick()
    queue.tick()

    assert "no environment" in str(jobs.view(broken).error)
    wait_for(jobs, good, "finished")


def test_the_host_is_told_before_a_training_starts_and_when_none_goes_on(jobs, form):
    told = []
    queue = Queue(jobs, on_busy=lambda busy: told.append((busy, jobs.running() is not None)))
    queue.tick()

    run = until_stopped(jobs, form, queue)
    queue.tick()
    queue.stop(run)
    wait_for(jobs, run, "stopped")
    queue.tick()

    assert told == [(False, False), (True, False), (False, False)]


def test_only_one_of_two_processes_starts_runs(jobs, form, queue):
    other = Queue(Jobs(jobs.data_dir, command=FAKE_TRAINER))
    other.tick()  # it sees to the queue now
    first = until_stopped(jobs, form, queue)
    queue.submit(change(form, name="b"))
    queue.stop(first)
    wait_for(jobs, first, "stopped")

    queue.tick()

    assert named(queue) == ["b"]
    other.end()
    queue.tick()
    assert named(queue) == []


def test_its_thread_starts_what_waits(jobs, form, queue):
    first = until_stopped(jobs, form, queue)
    second = queue.submit(change(form, name="b"))
    queue.start()

    queue.stop(first)

    wait_for(jobs, second, "finished")
    queue.end()


# ---------------------------------------------------------------------------------------- several cards


@pytest.fixture
def two_cards(tmp_path):
    return Jobs(tmp_path / "data", command=FAKE_TRAINER, devices=("GPU-b", "GPU-a"))


def submit(jobs, queue, form, name):
    """A run that goes on until it is stopped."""
    run = behave(jobs.create(change(form, name=name)), "wait")
    queue.add(run)
    return run


def end(jobs, queue, *runs):
    for run in runs:
        queue.stop(run)
        wait_for(jobs, run, "stopped")


def test_with_two_cards_two_runs_go_on_one_on_each_and_the_third_waits(two_cards, form):
    jobs, queue = two_cards, Queue(two_cards)
    first, second, third = (submit(jobs, queue, form, name) for name in "abc")

    assert [jobs.view(run).card for run in (first, second)] == ["GPU-b", "GPU-a"]
    assert named(queue) == ["c"]
    assert jobs.free_device() is None
    for run in (first, second):
        wait_for(jobs, run, "running")
        while jobs.view(run).step < 3:
            pass
    assert (first.path / "saw").read_text() == "GPU-b" and (second.path / "saw").read_text() == "GPU-a"

    end(jobs, queue, first)
    queue.tick()

    assert jobs.view(third).card == "GPU-b" and named(queue) == []
    end(jobs, queue, second, third)


def test_with_one_card_they_go_on_one_after_the_other(jobs, form):
    queue = Queue(jobs)
    first, second = (submit(jobs, queue, form, name) for name in "ab")

    assert named(queue) == ["b"] and jobs.view(first).card == ""
    end(jobs, queue, first)
    queue.remove(second)


def test_the_host_makes_room_only_for_a_run_on_its_own_card(two_cards, form):
    told = []
    jobs = two_cards
    queue = Queue(jobs, on_busy=told.append)
    first = submit(jobs, queue, form, "a")
    queue.tick()
    assert told == [False]

    second = submit(jobs, queue, form, "b")
    assert told == [False, True]
    end(jobs, queue, second)
    queue.tick()
    assert told == [False, True, False]
    end(jobs, queue, first)


def test_a_run_that_an_older_version_started_may_have_any_card(two_cards, form):
    jobs, queue = two_cards, Queue(two_cards)
    first = submit(jobs, queue, form, "a")
    wait_for(jobs, first, "running")
    first.card_path.unlink()

    submit(jobs, queue, form, "b")

    assert named(queue) == ["b"]
    queue.remove(queue.waiting()[0])
    end(jobs, queue, first)


def test_a_run_waits_for_the_picture_that_is_being_drawn(jobs, form):
    drawing = [True]
    queue = Queue(jobs, on_busy=lambda busy: not (busy and drawing))
    run = submit(jobs, queue, form, "a")
    assert named(queue) == ["a"] and queue.waits_for_picture

    queue.tick()
    assert named(queue) == ["a"]
    drawing.clear()
    queue.tick()

    assert named(queue) == [] and not queue.waits_for_picture
    end(jobs, queue, run)


def test_a_run_that_was_found_again_is_told_of_until_the_host_has_made_room(jobs, form):
    """A host that was started again draws its first picture just now: it is asked each second."""
    run = until_stopped(jobs, form, Queue(jobs))
    told, drawing = [], [True]
    later = Queue(Jobs(jobs.data_dir, command=FAKE_TRAINER), on_busy=lambda busy: told.append(busy) or not drawing)

    later.tick()
    later.tick()
    drawing.clear()
    later.tick()
    later.tick()

    assert told == [True, True, True]
    end(jobs, later, run)
    later.tick()
    assert told == [True, True, True, False]


def test_whoever_wants_to_know_is_told_of_each_end(jobs, form):
    ended = []
    queue = Queue(jobs, on_end=lambda: ended.append(1))
    first = submit(jobs, queue, form, "a")
    queue.tick()
    assert ended == []

    end(jobs, queue, first)
    queue.tick()
    queue.tick()

    assert ended == [1]
