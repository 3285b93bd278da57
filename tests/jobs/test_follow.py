import io

import pytest

from lora_atelier import events
from lora_atelier.errors import ExtensionError
from lora_atelier.jobs.follow import Bar, follow, stop_and_wait
from lora_atelier.locking import FileLock

pytestmark = pytest.mark.torchfree


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_is_one_moving_line_on_a_terminal_and_tenths_in_a_file():
    terminal, file = Terminal(), io.StringIO()
    for out in (terminal, file):
        bar = Bar("training", 100, out)
        for done in range(101):
            bar.show(done)
        bar.close()

    assert terminal.getvalue().count("\n") == 1 and terminal.getvalue().count("\r") == 101
    assert len(file.getvalue().splitlines()) == 11
    assert file.getvalue().splitlines()[-1] == f"training [{'#' * 24}] 100/100"


def test_a_run_is_followed_to_its_end(jobs, form):
    out = io.StringIO()
    run = jobs.create(form)
    jobs.start(run)

    view = follow(jobs, run, out)

    assert view.status == "finished"
    assert f"{view.steps}/{view.steps}" in out.getvalue()


def test_preparations_show_how_far_they_are(jobs, form):
    run = jobs.create(form)
    lock = FileLock(run.lock_path)
    assert lock.acquire()
    run.mark_started()
    say = events.Appender(run.events_path).add
    say(events.Started(steps=400))
    say(events.Preparing(stage="latents", done=7, total=20))

    view = jobs.view(run)

    assert (view.stage, view.stage_done, view.stage_total) == ("latents", 7, 20)
    assert 5 <= view.seconds_left <= view.job.plan["seconds"]
    lock.release()


def test_the_error_of_a_run_is_raised(jobs, form):
    run = jobs.create(form)
    (run.path / "behave").write_text("fail")
    jobs.start(run)

    with pytest.raises(ExtensionError, match="disk is full"):
        follow(jobs, run, io.StringIO())


def test_stopping_waits_until_the_state_is_kept(jobs, form):
    run = jobs.create(form)
    (run.path / "behave").write_text("wait")
    jobs.start(run)
    while jobs.view(run).step < 3:
        pass

    assert stop_and_wait(jobs, run).status == "stopped"
    assert stop_and_wait(jobs, run).status == "stopped"  # and again, harmlessly
