import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import install
import pytest
from tests.jobs import fake_webui

from lora_atelier.jobs import host_torch, setup, torch_choice
from lora_atelier.jobs.torch_choice import Choice

pytestmark = pytest.mark.torchfree

INSTALL = Path(install.__file__)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """install.py at work in an empty folder, its name with a space and Japanese in it."""
    pytest.importorskip("tomllib")  # only a Python that can run the demo gets this far
    root = tmp_path / "my ＬoRA 工房"
    root.mkdir()
    (root / "pyproject.toml").write_text(
        "[project.optional-dependencies]\ntrainer = ['torch>=2.6', 'a']\nembedded = ['b']\ntest = ['c']\n"
    )
    monkeypatch.setattr(install, "ROOT", root)
    monkeypatch.setattr(install, "VENV", root / ".venv")
    return root


FOR_THE_PROCESSOR = Choice("index", "cpu", index=install.CPU_INDEX)
FOR_A_CARD = Choice("index", "cuda", index="https://download.pytorch.org/whl/cu126")


class FakePip:
    """Records what would be installed; ``fails`` names a word at which pip ends badly."""

    def __init__(self, monkeypatch, *, fails="", torch_there=False, own_sources=True, choice=FOR_THE_PROCESSOR):
        self.calls = []
        self.venvs = []
        self.fails = fails
        monkeypatch.setattr(install, "pip", self.pip)
        monkeypatch.setattr(install, "make_venv", self.make_venv)
        monkeypatch.setattr(install, "has_torch", lambda python: torch_there)
        monkeypatch.setattr(install, "wants_cpu_torch", lambda: not own_sources)
        monkeypatch.setattr(install, "torch_choice", lambda python, webui=None, reuse=True: choice)

    def make_venv(self, venv, python, system_packages=False):
        self.venvs.append(system_packages)
        install.venv_python(venv).parent.mkdir(parents=True, exist_ok=True)
        install.venv_python(venv).touch()

    def pip(self, venv, arguments, title):
        self.calls.append(arguments)
        if self.fails and any(self.fails in argument for argument in arguments):
            raise install.InstallError("no network")


def test_a_webui_that_starts_it_gets_silence_and_success_wherever_it_stands(tmp_path):
    folder = tmp_path / "sd webui"
    folder.mkdir()
    copy = folder / "install.py"
    copy.write_bytes(INSTALL.read_bytes())

    done = subprocess.run([sys.executable, str(copy)], cwd=tmp_path, capture_output=True, timeout=20)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert [path.name for path in folder.iterdir()] == ["install.py"]


def test_python_3_6_can_still_read_the_file():
    # What 3.6 lacks: `from __future__ import annotations`, := and positional-only parameters are the likely ones.
    ast.parse(INSTALL.read_text(encoding="utf-8"), feature_version=(3, 6))
    assert "from __future__" not in INSTALL.read_text(encoding="utf-8")


@pytest.mark.parametrize(("system", "typed"), [("posix", "python3.12 install.py demo"), ("nt", "py -3.12 install.py")])
def test_an_old_python_is_one_sentence_that_says_which_to_install(monkeypatch, capsys, system, typed):
    monkeypatch.setattr(install.sys, "version_info", (3, 10, 4))
    monkeypatch.setattr(install.os, "name", system)

    assert install.main(["demo"]) == 1

    said = capsys.readouterr().err.strip()
    assert "3.11, 3.12 or 3.13" in said and "3.10" in said and typed in said
    assert "\n" not in said


def test_an_unknown_command_shows_the_two_there_are(capsys):
    assert install.main(["frobnicate"]) == 2
    assert install.main(["--help"]) == 0
    assert "install.py demo" in capsys.readouterr().out


def test_torch_comes_first_then_the_groups_then_the_word_list_without_its_dependencies(checkout, monkeypatch):
    pip = FakePip(monkeypatch)

    install.install(["trainer", "embedded"])

    assert pip.calls == [[install.TORCH], ["torch>=2.6", "a", "b"], ["--no-deps", "open_clip_torch"]]


def test_a_second_run_calls_no_pip_at_all(checkout, monkeypatch):
    install_once = FakePip(monkeypatch)
    install.install(["trainer", "embedded"])
    assert install_once.calls

    again = FakePip(monkeypatch)
    monkeypatch.setattr(install.subprocess, "run", lambda *a, **k: pytest.fail("a program was started"))
    install.install(["trainer", "embedded"])

    assert again.calls == [] and again.venvs == []


def test_another_group_or_a_changed_requirement_is_installed_beside_what_is_there(checkout, monkeypatch):
    FakePip(monkeypatch)
    install.install(["trainer", "embedded"])

    more = FakePip(monkeypatch)
    install.install(["trainer", "embedded", "test"])
    assert ["torch>=2.6", "a", "b", "c"] in more.calls

    (checkout / "pyproject.toml").write_text((checkout / "pyproject.toml").read_text().replace("'b'", "'b>2'"))
    changed = FakePip(monkeypatch)
    install.install(["trainer", "embedded"])
    assert ["torch>=2.6", "a", "c", "b>2"] in changed.calls


def test_an_interrupted_installation_goes_on_next_time(checkout, monkeypatch):
    FakePip(monkeypatch, fails="open_clip")
    with pytest.raises(install.InstallError):
        install.install(["trainer", "embedded"])
    assert not install.is_complete(install.VENV, {"trainer": "x"})

    again = FakePip(monkeypatch, torch_there=True)
    install.install(["trainer", "embedded"])

    assert again.calls[0] == ["torch>=2.6", "a", "b"]  # torch had arrived and is kept
    again.calls.clear()
    install.install(["trainer", "embedded"])
    assert again.calls == []


def test_without_a_card_the_small_torch_is_asked_for_and_the_usual_one_taken_if_that_fails(checkout, monkeypatch):
    pip = FakePip(monkeypatch, fails="download.pytorch.org", own_sources=False)

    install.install(["trainer"])

    assert install.CPU_INDEX in pip.calls[0]
    assert pip.calls[1] == [install.TORCH]


def test_a_card_gets_its_build_from_pytorchs_index_alone(checkout, monkeypatch):
    pip = FakePip(monkeypatch, own_sources=False, choice=FOR_A_CARD)

    install.install(["trainer"])

    assert pip.calls[0] == ["--index-url", FOR_A_CARD.index, install.TORCH]


def test_an_index_that_can_not_be_reached_is_no_reason_for_a_build_that_can_not_use_the_card(checkout, monkeypatch):
    FakePip(monkeypatch, fails="cu126", choice=FOR_A_CARD)

    with pytest.raises(install.InstallError):
        install.install(["trainer"])


@pytest.fixture
def host(tmp_path):
    return fake_webui.make_site_packages(tmp_path / "webui" / "site-packages")


@pytest.mark.parametrize("importable", [True, False])
def test_the_webuis_torch_is_linked_and_left_alone_and_one_of_our_own_comes_if_that_fails(
    checkout, monkeypatch, host, importable
):
    pip = FakePip(monkeypatch)
    chosen = {True: Choice("reuse", "cuda", "torch==2.9.0+cu128"), False: FOR_A_CARD}
    monkeypatch.setattr(install, "torch_choice", lambda python, webui=None, reuse=True: chosen[reuse])
    monkeypatch.setattr(install, "make_venv", lambda venv, python, system_packages=False: fake_webui.make_venv(venv))
    torch = setup.machine.Torch("2.9.0+cu128", "cu128", host, True)
    monkeypatch.setattr(setup.machine, "about_torch", lambda command: torch if importable else None)
    before = fake_webui.fingerprint(host)

    install.install(["trainer"], fake_webui.webui(host))

    assert pip.calls[0] == ["torch==2.9.0+cu128"]  # what it needs beside itself
    assert (["--index-url", FOR_A_CARD.index, install.TORCH] in pip.calls) is not importable
    assert (host_torch.linked(setup.site_packages(install.VENV)) is not None) is importable
    assert fake_webui.fingerprint(host) == before


def test_our_pin_is_the_one_that_the_choice_knows():
    assert f"torch=={torch_choice.VERSION}" == install.TORCH
    assert install.OLDEST_TORCH == torch_choice.OLDEST and install.OLDEST == torch_choice.OLDEST_PYTHON


def test_a_driver_that_no_build_runs_on_is_said_in_one_sentence(monkeypatch):
    card = torch_choice.Card("cuda", (390, 25), (6, 1))
    monkeypatch.setattr(setup.machine, "card", lambda: card)
    monkeypatch.setattr(setup.machine, "find_webui", lambda root, named=None: None)

    with pytest.raises(install.InstallError, match=r"390\.25"):
        install.torch_choice(sys.executable)


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands for a Python")
@pytest.mark.parametrize("command", ["trainer", "doctor", "sd-scripts"])
def test_a_webuis_old_python_hands_over_to_a_newer_one_and_says_who_it_is(monkeypatch, command):
    started = []
    monkeypatch.setattr(install.sys, "version_info", (3, 10, 6))
    monkeypatch.setattr(install, "find_python", lambda version: ["py", "-3.13"] if version == "3.13" else None)
    monkeypatch.setattr(install, "run", lambda argv, cwd: started.append(argv) or 0)

    assert install.main([command]) == 0

    assert started == [["py", "-3.13", str(INSTALL.resolve()), command, "--webui", sys.executable]]


def test_a_webuis_old_python_alone_on_the_machine_is_told_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(install.sys, "version_info", (3, 10, 6))
    monkeypatch.setattr(install, "find_python", lambda version: None)

    assert install.main(["trainer"]) == 1
    assert "install Python 3.12 from https://www.python.org/downloads/" in capsys.readouterr().err


def test_a_python_without_venv_but_with_pip_is_served_by_virtualenv_in_a_folder_of_ours(tmp_path, monkeypatch):
    calls = []

    def run(command, **options):
        calls.append(command)
        return subprocess.CompletedProcess(command, 0, stdout=b"No module named venv")

    monkeypatch.setattr(install.subprocess, "run", run)

    assert install.make_with_virtualenv(tmp_path / ".venv", ["python.exe"])

    assert calls[0][:2] == ["python.exe", "-B"]  # that Python's packages get no compiled copies either
    assert calls[0][-3:] == ["--target", str(tmp_path / ".venv-tools"), "virtualenv"]
    assert "cli_run" in calls[1][-1] and not (tmp_path / ".venv-tools").exists()


@pytest.mark.parametrize(
    "sources", ["global.index-url='x'", ":env:.find-links='/wheels'", "global.extra-index-url='y'"]
)
def test_package_sources_that_someone_set_up_for_pip_are_respected(monkeypatch, sources):
    done = subprocess.CompletedProcess([], 0, stdout=sources.encode())
    monkeypatch.setattr(install.platform, "system", lambda: "Linux")
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    monkeypatch.setattr(install.subprocess, "run", lambda *a, **k: done)

    assert not install.wants_cpu_torch()


def test_a_python_without_venv_says_what_to_install(checkout, monkeypatch):
    said = b"The virtual environment was not created successfully because ensurepip is not available."
    monkeypatch.setattr(install.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess([], 1, stdout=said))

    with pytest.raises(install.InstallError, match=r"sudo apt install python\d\.\d+-venv"):
        install.make_venv(install.VENV, [sys.executable])


def test_a_half_made_environment_is_made_again(checkout):
    install.VENV.mkdir()
    (install.VENV / "pyvenv.cfg").write_text("broken")

    assert not install.works(install.VENV)
    install.make_venv(install.VENV, [sys.executable])
    assert install.works(install.VENV)


def test_pips_words_go_into_the_log_and_its_failure_becomes_a_sentence(checkout, capsys, monkeypatch):
    program = (
        "import sys; print('Collecting torch'); print('  Downloading torch-2.13.0+cpu-cp311.whl (190.1 MB)'); "
        "print('ERROR: [Errno 28] No space left on device'); sys.exit(1)"
    )
    install.VENV.mkdir()
    monkeypatch.setattr(install, "venv_python", lambda venv: venv / "python")
    popen = subprocess.Popen
    monkeypatch.setattr(install.subprocess, "Popen", lambda command, **kw: popen([sys.executable, "-c", program], **kw))

    with pytest.raises(install.InstallError, match="make room") as caught:
        install.pip(install.VENV, ["torch"], "PyTorch")

    assert "torch 2.13.0+cpu (190.1 MB)" in capsys.readouterr().out
    assert "Collecting torch" in (install.VENV / "install.log").read_text()
    assert "Errno 28" in str(caught.value)


@pytest.mark.parametrize(
    ("last", "todo"),
    [
        ("ERROR: No matching distribution found for torch==2.13.0", "no PyTorch for this system"),
        ("socket.gaierror: Name or service not known", "internet connection"),
        ("something else", "Type the same command again"),
    ],
)
def test_what_to_do_depends_on_what_pip_said(last, todo):
    assert todo in install.explain("PyTorch", [last], Path("install.log"))


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Downloading numpy-2.4.6-cp311-manylinux.whl (17 MB)", "numpy 2.4.6 (17 MB)"),
        ("  Downloading numpy-2.4.6.whl.metadata (6 kB)", ""),
        ("Using cached tqdm-4.70.1-py3-none-any.whl (78 kB)", "tqdm 4.70.1 (78 kB)"),
        ("Processing /opt/wheels/torch-2.13.0+cpu-cp311-linux.whl", "torch 2.13.0+cpu"),
        ("Processing /x/sympy-1.14.0-py3.whl (from torch==2.13.0)", "sympy 1.14.0"),
        ("Installing collected packages: a, b, c", "unpacking 3 packages ..."),
        ("Requirement already satisfied: pip", ""),
    ],
)
def test_each_package_is_one_line_of_progress(line, shown):
    assert install.progress(line) == shown


def test_a_python_that_is_not_there_is_named_and_skipped(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))

    assert install.find_python("3.1") is None
    assert install.test_without_torch("3.1")
    assert "skipped: there is no Python 3.1" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands for pyenv's shim")
def test_a_name_without_a_python_behind_it_is_passed_over(monkeypatch, tmp_path):
    shim = tmp_path / "python3.99"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))

    assert install.find_python("3.99") is None


def test_a_damaged_stamp_is_as_none(checkout):
    install.VENV.mkdir()
    (install.VENV / install.STAMP).write_text("[")

    assert install.read_stamp(install.VENV) == {}
    install.write_stamp(install.VENV, {"trainer": "x"})
    assert json.loads((install.VENV / install.STAMP).read_text()) == {"trainer": "x"}


def test_ctrl_c_says_that_nothing_is_lost(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(install, "demo", interrupted)
    monkeypatch.setattr(install.sys, "version_info", (3, 12, 1))

    assert install.main(["demo"]) == 130
    assert "Nothing is lost" in capsys.readouterr().err
