import os
import shutil
import subprocess

import pytest
from tests.engines import fake_sd_scripts

from lora_atelier.engines import sd_scripts
from lora_atelier.errors import JobError
from lora_atelier.jobs import sd_scripts_setup

pytestmark = pytest.mark.torchfree

REQUIREMENTS = """accelerate==1.6.0
diffusers[torch]==0.32.1
# albumentations==1.3.0
opencv-python==4.10.0.84
bitsandbytes
numpy
# <=2.0
torch==2.4.0  # ours is another
-e .
"""


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A repository that stands for sd-scripts', whose last commit is the pinned one."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    folder = fake_sd_scripts.make(tmp_path / "source")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    monkeypatch.setattr(sd_scripts, "COMMIT", git(folder, "rev-parse", "HEAD"))
    return folder


def test_the_pinned_commit_is_fetched_once(tmp_path, source):
    said = []
    for _ in range(2):
        sd_scripts_setup.fetch(tmp_path / "checkout", say=said.append, source=str(source))

    assert sd_scripts.is_checkout(tmp_path / "checkout")
    assert git(tmp_path / "checkout", "rev-parse", "HEAD") == sd_scripts.COMMIT
    assert [line.split()[0] for line in said] == ["fetching", "the"]


def test_what_was_interrupted_goes_on(tmp_path, source):
    git_dir = tmp_path / "checkout"
    git_dir.mkdir()
    git(git_dir, "init", "--quiet")

    sd_scripts_setup.fetch(git_dir, say=lambda text: None, source=str(source))

    assert sd_scripts.is_checkout(git_dir)


def test_without_a_network_it_says_what_git_says(tmp_path, source):
    with pytest.raises(JobError, match=r"can't be fetched.*git says: .*nowhere.*Check the internet"):
        sd_scripts_setup.fetch(tmp_path / "checkout", say=lambda text: None, source=str(tmp_path / "nowhere"))


def test_without_git_it_says_where_git_is_to_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)

    with pytest.raises(JobError, match=r"git is not installed.*git-scm\.com"):
        sd_scripts_setup.fetch(tmp_path / "checkout", say=lambda text: None)


def test_its_requirements_are_taken_but_for_what_comes_otherwise(tmp_path):
    (tmp_path / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")

    assert sd_scripts_setup.requirements(tmp_path) == [
        "accelerate==1.6.0",
        "diffusers[torch]==0.32.1",
        "opencv-python-headless==4.10.0.84",
        "numpy",
    ]


@pytest.mark.skipif(os.name != "posix", reason="the stand-in's Python is a shell script")
def test_it_is_tried_before_it_is_called_ready(tmp_path):
    checkout = fake_sd_scripts.make(tmp_path / "checkout")
    program = checkout / "train_network.py"

    program.write_text("print('usage')", encoding="utf-8")
    assert sd_scripts_setup.try_it(checkout, checkout / "venv") == ""
    program.write_text("import a_package_that_is_not_there", encoding="utf-8")
    assert "a_package_that_is_not_there" in sd_scripts_setup.try_it(checkout, checkout / "venv")
