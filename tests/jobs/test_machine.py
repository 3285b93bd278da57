import os
import sys

import pytest
from tests.jobs.fake_webui import fingerprint, make_site_packages

from lora_atelier.jobs import machine
from lora_atelier.jobs.machine import Python
from lora_atelier.jobs.torch_choice import Card

pytestmark = pytest.mark.torchfree
posix = pytest.mark.skipif(os.name != "posix", reason="shell scripts stand for programs")


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def test_a_python_says_what_it_is():
    found = machine.about([sys.executable])

    assert found.version == sys.version_info[:2]
    assert machine.about(["/no/such/python"]) is None


@posix
def test_words_that_a_python_prints_at_its_start_are_passed_over_and_a_failure_is_none(tmp_path):
    chatty = script(tmp_path / "chatty", f'echo "Welcome!"; exec "{sys.executable}" "$@"')
    broken = script(tmp_path / "broken", "exit 3")

    assert machine.about([str(chatty)]).version == sys.version_info[:2]
    assert machine.about([str(broken)]) is None


@posix
def test_asking_for_a_webuis_torch_leaves_its_packages_as_they_are(tmp_path):
    packages = make_site_packages(tmp_path / "site-packages", "2.9.0+cu128", available=True)
    # -I ignores PYTHONPATH, so this Python is given the folder by its program.
    program = f'shift 3; exec "{sys.executable}" -B -c "import sys; sys.path.insert(0, \'{packages}\'); $1"'
    python = script(tmp_path / "webui" / "venv" / "bin" / "python", program)
    before = fingerprint(packages)

    found = machine.find_webui(tmp_path / "webui" / "extensions" / "atelier")

    assert found.python.command == (str(python),)
    assert (found.torch.version, found.torch.tag, found.torch.available) == ("2.9.0+cu128", "cu128", True)
    assert found.torch.folder == packages
    assert fingerprint(packages) == before


@pytest.mark.parametrize(
    ("system", "inside"),
    [
        ("posix", "webui/venv/bin/python"),
        ("posix", "webui/.venv/bin/python"),
        ("nt", "webui/venv/Scripts/python.exe"),
        ("nt", "system/python/python.exe"),  # the one-click packages of A1111 and Forge
        ("nt", "python_embeded/python.exe"),
    ],
)
def test_a_webuis_python_is_found_where_each_kind_of_webui_keeps_it(tmp_path, monkeypatch, system, inside):
    root = tmp_path / "webui" / "extensions" / "atelier"
    wanted = tmp_path / inside
    monkeypatch.setattr(machine, "_is_windows", lambda: system == "nt")

    assert wanted in list(machine._webui_pythons(root, None))


def test_a_folder_outside_of_a_webui_has_none(tmp_path):
    assert machine.find_webui(tmp_path / "sd-webui-lora-atelier") is None


@pytest.fixture
def there(monkeypatch):
    """The Pythons that this machine is made to have, by command."""
    found = {}
    monkeypatch.setattr(machine, "_commands", lambda: iter(found))
    monkeypatch.setattr(machine, "about", lambda command: found.get(command))
    return found


def test_only_pythons_that_the_trainer_runs_on_count_and_those_without_venv_come_last(there):
    bare = there["python3.12",] = Python(("python3.12",), (3, 12), has_venv=False)
    good = there["py", "-3.13"] = Python(("py", "-3.13"), (3, 13))
    there["python3.10",] = Python(("python3.10",), (3, 10))
    there["python3.11",] = None

    assert list(machine.pythons()) == [good, bare]


def test_the_webuis_own_python_comes_first_if_the_trainer_runs_on_it(there):
    other = there["python3.12",] = Python(("python3.12",), (3, 12))
    webuis = Python(("/webui/python",), (3, 11))

    assert list(machine.pythons(webuis)) == [webuis, other]
    assert list(machine.pythons(Python(("/webui/python",), (3, 10)))) == [other]


def test_py_is_asked_on_windows_and_names_on_the_path_everywhere(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: name if name in ("py", "python3.13") else None)
    monkeypatch.setenv("PYENV_ROOT", "/nowhere")
    monkeypatch.setattr(machine, "_is_windows", lambda: True)

    commands = list(machine._commands())

    assert ("py", "-3.12") in commands and ("python3.13",) in commands
    assert ("python3.12",) not in commands


@posix
@pytest.mark.parametrize(
    ("said", "card"),
    [('echo "580.95, 8.6"', Card("cuda", (580, 95), (8, 6))), ("echo failed; exit 9", None)],
)
def test_the_card_is_told_by_its_driver(tmp_path, monkeypatch, said, card):
    script(tmp_path / "nvidia-smi", said)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "_rocm", lambda: None)

    assert machine.card() == card


@posix
def test_an_old_driver_that_knows_no_capability_is_asked_again_without(tmp_path, monkeypatch):
    script(tmp_path / "nvidia-smi", 'case "$1" in *compute_cap*) exit 6;; *) echo "451.82";; esac')
    monkeypatch.setenv("PATH", str(tmp_path))

    assert machine.card() == Card("cuda", (451, 82), None)


def test_what_tells_a_python_where_packages_are_is_not_passed_on(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/webui")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    given = machine.clean_environment()

    assert "PYTHONPATH" not in given and given["CUDA_VISIBLE_DEVICES"] == "1"
