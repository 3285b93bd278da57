import json
import os
import sys
import time
from pathlib import Path

import pytest

from lora_atelier import locking
from lora_atelier.errors import AlreadyRunningError, JobError
from lora_atelier.jobs import environment, setup_process, trainer_setup
from lora_atelier.jobs.setup_process import SetupProgress
from lora_atelier.jobs.trainer_setup import TrainerSetup
from lora_atelier.locking import FileLock

pytestmark = pytest.mark.torchfree

INSTALLER = Path(__file__).with_name("fake_installer.py")


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A function that makes the environment's setup with an installer that goes a way: well, waits, disk, …"""
    monkeypatch.setattr(environment, "_NEEDED", ("a_package_that_nobody_has",))
    root = tmp_path / "extensions" / "工房 atelier"
    root.mkdir(parents=True)
    made = []

    def make(way="well"):
        setup = TrainerSetup(tmp_path / "data", root=root, command=[sys.executable, str(INSTALLER), str(root), way])
        made.append(setup)
        return setup

    make.root = root
    yield make
    (root / "go on").touch()
    for setup in made:
        setup.stop()
        until(setup, "ready", "missing", "failed", "stopped", "died")


def until(setup, *states, **fields):
    deadline = time.monotonic() + 20
    while (view := setup.view()).state not in states or any(
        getattr(view.progress, name) != value for name, value in fields.items()
    ):
        assert time.monotonic() < deadline, view
        time.sleep(0.02)
    return view


def test_an_environment_that_is_missing_is_said_with_what_it_will_take(make):
    setup = make()

    assert setup.view().state == "missing"
    assert "1 to 5 GB" in str(trainer_setup.sentence(setup.view()))


def test_it_is_made_in_a_process_of_its_own_and_is_ready_afterwards(make):
    setup = make()

    setup.start()

    assert until(setup, "ready").progress.stage == "checking"
    assert environment.trainer_python(make.root).is_file()
    assert setup.log_tail() == "Setting up LoRA Atelier"


def test_how_far_the_package_is_that_comes_can_be_read_by_whoever_asks_next(make):
    """The webui was started again: another object, and nothing but the disk to know it from."""
    make("waits").start()
    again = make("waits")

    view = until(again, "running", stage="torch", done=50_000_000)

    assert (view.progress.item, view.progress.total) == ("torch 2.13.0 (200 MB)", 200_000_000)
    with pytest.raises(AlreadyRunningError):
        again.start()
    (make.root / "go on").touch()
    assert until(again, "failed").error is not None


def test_it_can_be_stopped_by_anybody_and_go_on(make):
    make("waits").start()
    again = make()
    until(again, "running", stage="torch")

    again.stop()

    assert "kept" in str(trainer_setup.sentence(until(again, "stopped")))
    again.start()
    assert until(again, "ready")


def test_a_machine_that_was_switched_off_meanwhile_is_told_from_one_at_work(make, tmp_path):
    setup = make()
    folder = tmp_path / "data" / trainer_setup.FOLDER
    folder.mkdir(parents=True)
    SetupProgress(stage="torch").write(folder)

    assert setup.view().state == "died"

    lock = FileLock(folder / "lock")
    assert lock.acquire() and setup.view().state == "running"
    lock.release()


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("disk", "The disk is full. Make room"),
        ("network", "could not be fetched. Check the internet connection"),
        ("no torch", "no PyTorch for this system"),
        ("python", "Install Python 3.12 from https"),
        ("venv", "python3-venv"),
        ("folder", "can't be written to"),
        ("other", "The installer gave up"),
        ("said", "The driver is too old. Update it."),
        ("crashes", "ended with code 70"),
    ],
)
def test_what_failed_is_a_sentence_with_what_to_do_and_the_last_words(make, way, said):
    setup = make(way)
    setup.start()

    view = until(setup, "failed")

    assert said in str(view.error)
    assert view.log.splitlines()[0] == "Setting up LoRA Atelier" and len(view.log.splitlines()) == 2


def test_under_a_training_or_on_a_full_disk_nothing_is_begun(make, tmp_path, monkeypatch):
    setup = make()
    lock = FileLock(tmp_path / "data" / "runs" / "x" / "lock")
    assert lock.acquire()
    with pytest.raises(JobError, match="while a training runs"):
        setup.start()
    lock.release()

    monkeypatch.setattr(trainer_setup.shutil, "disk_usage", lambda path: os.terminal_size((1, 1)) and _Full())
    with pytest.raises(JobError, match=r"has 0\.5 GB left"):
        setup.start()
    assert setup.view().state == "missing"


class _Full:
    free = 500_000_000


def test_a_second_process_leaves_the_first_one_alone(tmp_path):
    lock = FileLock(tmp_path / setup_process.LOCK)
    assert lock.acquire()

    assert setup_process.main([str(tmp_path), sys.executable, "-c", "print(1)"]) == 2
    assert not (tmp_path / setup_process.PROGRESS).exists()
    lock.release()


def test_an_environment_that_was_complete_and_is_gone_is_missing_not_finished(make, tmp_path):
    setup = make()
    setup.start()
    until(setup, "ready")

    (make.root / ".venv" / environment.STAMP).unlink()

    assert setup.view().state == "died"


def test_half_a_file_or_one_of_a_newer_version_is_none(tmp_path):
    for text in ("", "[1]", json.dumps({"schema": 2}), json.dumps({"schema": 1, "new": 1})):
        (tmp_path / setup_process.PROGRESS).write_text(text)
        assert SetupProgress.read(tmp_path) is None


def test_the_doctors_findings_come_line_by_line(make):
    found = make().examine()

    assert [(each.level, str(each.said), str(each.mend)) for each in found] == [
        ("ok", "Its 9 packages are there.", ""),
        ("problem", "The trainer's environment was not completed.", "Make room first."),
    ]
    with pytest.raises(JobError, match="There is no Python"):
        make("crashes").examine()


def test_nothing_of_the_webuis_python_reaches_the_installer(make, monkeypatch):
    for name in ("PYTHONPATH", "UV_CONSTRAINT", "COMMANDLINE_ARGS", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "x")

    given = trainer_setup._environment()

    assert "PIP_INDEX_URL" in given and not {"PYTHONPATH", "UV_CONSTRAINT", "COMMANDLINE_ARGS"} & given.keys()


def test_the_lock_is_free_once_it_has_ended(make, tmp_path):
    setup = make()
    setup.start()
    until(setup, "ready")

    assert not locking.is_locked(tmp_path / "data" / trainer_setup.FOLDER / "lock")
