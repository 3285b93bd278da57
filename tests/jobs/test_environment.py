import os
import sys
from pathlib import Path

import pytest

from lora_atelier.errors import JobError
from lora_atelier.jobs import environment

pytestmark = pytest.mark.torchfree


def test_nothing_that_a_webui_set_for_itself_reaches_the_trainer():
    inherited = {
        "PATH": "/usr/bin",
        "HOME": "/home/me",
        "CUDA_VISIBLE_DEVICES": "1",
        "PYTHONPATH": "/webui",
        "PYTHONHTTPSVERIFY": "0",
        "UV_CONSTRAINT": "constraints.txt",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "x",
        "COMMANDLINE_ARGS": "--listen",
        "HF_TOKEN": "secret",
        "HF_HUB_OFFLINE": "0",
        "virtual_env": "/webui/venv",
    }

    given = environment.trainer_environment(inherited)

    assert {name: given.get(name) for name in ("PATH", "HOME", "CUDA_VISIBLE_DEVICES")} == {
        "PATH": "/usr/bin",
        "HOME": "/home/me",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    assert given["PYTHONPATH"] == str(Path(environment.__file__).parents[2])
    assert given["HF_HUB_OFFLINE"] == "1"
    for name in ("PYTHONHTTPSVERIFY", "UV_CONSTRAINT", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "COMMANDLINE_ARGS"):
        assert name not in given
    assert "HF_TOKEN" not in given and "virtual_env" not in given


def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise():
    assert environment.trainer_environment({})["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment.trainer_environment({"OMP_WAIT_POLICY": "ACTIVE"})["OMP_WAIT_POLICY"] == "ACTIVE"


def test_the_environment_beside_the_extension_is_used_once_it_is_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_NEEDED", ("a_package_that_nobody_has",))
    python = environment.venv_python(tmp_path / ".venv")
    python.parent.mkdir(parents=True)
    python.touch()

    with pytest.raises(JobError, match=r"python install\.py trainer"):
        environment.trainer_python(tmp_path)

    stamp = tmp_path / ".venv" / environment.STAMP
    stamp.write_text("{}")  # as it is while an installation goes on
    with pytest.raises(JobError, match="environment is missing"):
        environment.trainer_python(tmp_path)

    stamp.write_text('{"trainer": "0123"}')
    assert environment.trainer_python(tmp_path) == python


def test_our_own_interpreter_is_used_when_it_has_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_has_everything", lambda: True)

    assert environment.trainer_python(tmp_path) == Path(sys.executable)


@pytest.mark.parametrize(("system", "inside"), [("nt", ("Scripts", "python.exe")), ("posix", ("bin", "python"))])
def test_an_interpreter_lies_where_its_system_puts_it(monkeypatch, system, inside):
    folder = Path("/x")
    monkeypatch.setattr(os, "name", system)

    assert environment.venv_python(folder).parts[-2:] == inside
