import json
import sys

import pytest
from tests.jobs.fake_webui import fingerprint, make_site_packages, make_venv, webui

from lora_atelier.errors import JobError
from lora_atelier.jobs import host_torch, machine, setup, setup_commands
from lora_atelier.jobs.environment import STAMP
from lora_atelier.jobs.machine import Python, Torch
from lora_atelier.jobs.torch_choice import Choice
from lora_atelier.locking import FileLock

pytestmark = pytest.mark.torchfree

HERE = sys.version_info[:2]


def torch(version="2.13.0+cu130", *, available=True):
    return Torch(version, version.partition("+")[2], None, available)


@pytest.fixture
def pythons(monkeypatch):
    found = [Python(("python3.12",), (3, 12)), Python(("python3.11",), (3, 11)), Python(("bare",), (3, 13), False)]
    monkeypatch.setattr(machine, "pythons", lambda first=None: iter([*([first] if first else []), *found]))
    return found


@pytest.mark.parametrize(
    ("version", "python", "chosen"),
    [
        ("2.9.0+cu128", (3, 11), (3, 11)),  # its PyTorch can be used
        ("2.9.0+cu128", (3, 13), (3, 13)),  # even where that Python has no venv module
        ("2.3.1+cu121", (3, 11), (3, 12)),  # it can't: the best one then
    ],
)
def test_the_python_is_the_webuis_version_where_that_saves_a_pytorch(tmp_path, pythons, version, python, chosen):
    around = webui(tmp_path, version, python=python)
    around = machine.Webui(Python(("webui",), python, has_venv=False), around.torch)

    assert setup.trainer_python(around).version == chosen
    assert setup.trainer_python(None).command == ("python3.12",)


def test_a_machine_without_a_suitable_python_is_told_which_to_install(monkeypatch):
    monkeypatch.setattr(machine, "pythons", lambda first=None: iter(()))

    with pytest.raises(JobError, match=r"none was found.*Install Python 3\.12"):
        setup.trainer_python(None)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            setup.Seen(torch(available=False), True),
            r"2\.13\.0\+cu130\) does not see the graphics card.*TORCH_INDEX_URL",
        ),
        (setup.Seen(torch(), False), "that the webui's does not use"),
        (setup.Seen(None, False), "can't be imported.*--rebuild"),
    ],
)
def test_a_pytorch_that_does_not_see_what_the_webuis_sees_is_refused(seen, said):
    with pytest.raises(JobError, match=said):
        setup.check(seen)


@pytest.mark.parametrize("available", [True, False])
def test_a_pytorch_that_sees_what_the_webuis_sees_is_good(tmp_path, monkeypatch, available):
    monkeypatch.setattr(machine, "about_torch", lambda command: torch(available=available))

    setup.check(setup.look(tmp_path, webui(tmp_path, available=available), Choice("index", "cuda")))


def test_without_a_webui_the_choice_says_what_to_expect(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "about_torch", lambda command: torch(available=False))

    assert setup.look(tmp_path, None, Choice("index", "cpu")).agrees
    assert not setup.look(tmp_path, None, Choice("index", "rocm")).agrees


def test_an_environment_is_not_made_anew_under_a_training(tmp_path):
    lock = FileLock(tmp_path / "runs" / "x" / "lock")
    setup.refuse_while_training(tmp_path / "runs")
    assert lock.acquire()

    with pytest.raises(JobError, match="while a training runs"):
        setup.refuse_while_training(tmp_path / "runs")
    lock.release()


class FakeInstaller:
    """install.py's part: what it would install is written down; ``torches`` is what is seen afterwards, in turn."""

    def __init__(self, root, monkeypatch, *torches, complete=False):
        self.ROOT, self.VENV = root, root / ".venv"
        self.calls, self.torches, self.complete = [], list(torches), complete
        monkeypatch.setattr(machine, "about_torch", lambda command: self.torches.pop(0))
        monkeypatch.setattr(machine, "card", lambda: None)
        monkeypatch.setattr(setup, "trainer_python", lambda webui: Python(("python3.12",), (3, 12)))
        if complete:
            make_venv(self.VENV, stamp={"trainer": "x"})

    def install(self, groups, webui=None, python=None):
        self.calls.append((groups, python))
        if not self.complete:
            make_venv(self.VENV, stamp={"trainer": "x"})
        return not self.complete

    def install_torch(self, webui=None):
        self.calls.append("torch")

    def read_extras(self):
        return {"trainer": []}

    def stamp_of(self, requirements):
        return "x"

    def is_complete(self, venv, wanted):
        return (venv / STAMP).exists() and json.loads((venv / STAMP).read_text()) == wanted

    def spoken(self, said):
        return str(said)

    def report(self, kind, **values):
        self.calls.append((kind, *values.values())) if kind != "stage" else None


def test_the_environment_is_made_with_the_python_that_suits_and_looked_at(tmp_path, monkeypatch, capsys):
    tools = FakeInstaller(tmp_path, monkeypatch, torch("2.13.0+cpu", available=False))

    assert setup_commands.run(["trainer"], tools) == 0

    assert tools.calls == [(["trainer"], ["python3.12"])]
    assert "PyTorch 2.13.0+cpu on the processor" in capsys.readouterr().out


def test_a_card_that_is_not_seen_stops_it_and_the_environment_does_not_count_as_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "find_webui", lambda root, named: webui(tmp_path, python=(3, 10), available=True))
    tools = FakeInstaller(tmp_path, monkeypatch, torch(available=False))

    with pytest.raises(JobError, match="does not see the graphics card"):
        setup_commands.run(["trainer"], tools)
    assert not (tools.VENV / STAMP).exists()


def test_an_environment_whose_pytorch_no_longer_suits_gets_another(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "find_webui", lambda root, named: webui(tmp_path, python=(3, 10), available=True))
    dropped = []
    monkeypatch.setattr(setup, "drop_torch", dropped.append)
    tools = FakeInstaller(tmp_path, monkeypatch, torch("2.13.0+cpu", available=False), torch(), complete=True)

    assert setup_commands.run(["trainer"], tools) == 0

    assert dropped == [tools.VENV] and tools.calls[-1] == "torch"
    assert (tools.VENV / STAMP).exists()


def test_a_webui_that_is_named_must_be_there(tmp_path, monkeypatch):
    tools = FakeInstaller(tmp_path, monkeypatch)

    with pytest.raises(JobError, match="no webui with a Python in"):
        setup_commands.run(["trainer", "--webui", str(tmp_path / "nothing")], tools)


def test_the_doctor_reports_and_its_exit_status_says_whether_something_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "about", lambda command: Python(tuple(command), (3, 12), torch="2.13.0+cpu"))
    tools = FakeInstaller(tmp_path, monkeypatch)
    assert setup_commands.run(["doctor"], tools) == 1
    assert "The trainer's environment is missing." in capsys.readouterr().out

    well = torch("2.13.0+cpu", available=False)
    tools = FakeInstaller(tmp_path, monkeypatch, well, well)

    assert setup_commands.run(["doctor", "--rebuild"], tools) == 0
    assert "computes on the processor" in capsys.readouterr().out


def test_a_rebuild_begins_with_an_empty_place_and_leaves_the_webuis_packages_alone(tmp_path, monkeypatch):
    host = make_site_packages(tmp_path / "host")
    before = fingerprint(host)
    well = torch("2.13.0+cpu", available=False)
    tools = FakeInstaller(tmp_path, monkeypatch, well, well)
    make_venv(tools.VENV, stamp={"trainer": "old"})
    host_torch.link(host, setup.site_packages(tools.VENV))
    monkeypatch.setattr(machine, "about", lambda command: Python(tuple(command), (3, 12), torch="2.13.0+cpu"))

    setup_commands.run(["doctor", "--rebuild"], tools)

    assert host_torch.linked(setup.site_packages(tools.VENV)) is None
    assert [path.name for path in tmp_path.iterdir()] == ["host", ".venv"] or not (tmp_path / ".venv-old").exists()
    assert fingerprint(host) == before
