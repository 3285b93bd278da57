import importlib.metadata
import subprocess
import sys

import pytest
from tests.jobs.fake_webui import fingerprint, make_site_packages

from lora_atelier.jobs import host_torch

pytestmark = pytest.mark.torchfree

# As the interpreter does at its start with each .pth file of its site-packages.
START = "import site, sys; site.addsitedir(sys.argv[1]); sys.path[:] = [p for p in sys.path if 'site-packages' not in p"
PROGRAM = START + " or p == sys.argv[1]]; {}"


@pytest.fixture
def host(tmp_path):
    return make_site_packages(tmp_path / "ウェブ ui" / "site-packages")


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "own" / "site-packages"
    folder.mkdir(parents=True)
    (folder / "typing_extensions_of_torch.py").write_text("")
    return folder


def ask(own, program):
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", PROGRAM.format(program), str(own)], capture_output=True, text=True
    )
    return done.stdout.strip() or "".join(done.stderr.strip().splitlines()[-1:])


def test_the_webuis_torch_is_imported_from_where_it_lies_and_nothing_else_of_the_webui_is_seen(host, own):
    made = host_torch.link(host, own)

    assert made == host_torch.linked(own)
    assert made.packages == ("nvidia", "torch", "torchgen", "triton")
    assert ask(own, "import torch.nn, triton, torchgen; print(torch.__file__)") == str(host / "torch" / "__init__.py")
    assert "No module named 'transformers'" in ask(own, "import transformers")


def test_the_trainer_takes_it_for_installed_and_pip_can_not_take_it_away(host, own):
    host_torch.link(host, own)

    found = {each.metadata["Name"]: each for each in importlib.metadata.distributions(path=[str(own)])}
    assert {name: each.version for name, each in found.items()} == {
        "torch": "2.9.0+cu128",
        "nvidia-cublas-cu12": "12.8.4.1",
        "triton": "3.5.0",
    }
    assert all(each.read_text("RECORD") is None for each in found.values())


def test_the_webuis_packages_are_the_same_to_the_byte_after_linking_importing_and_unlinking(host, own):
    before = fingerprint(host)

    host_torch.link(host, own)
    ask(own, "import torch.nn, triton, torchgen")
    assert fingerprint(host) == before
    host_torch.link(host, own)  # a second time is harmless
    host_torch.unlink(own)

    assert fingerprint(host) == before
    assert {path.name for path in own.iterdir()} - {"__pycache__"} == {"typing_extensions_of_torch.py"}
    assert host_torch.linked(own) is None


def test_another_torch_of_the_webui_is_noticed_and_so_is_one_that_is_gone(host, own):
    made = host_torch.link(host, own)
    assert host_torch.version_now(made) == made.version

    (host / "torch-2.9.0+cu128.dist-info").rename(host / "torch-2.10.0+cu130.dist-info")
    metadata = host / "torch-2.10.0+cu130.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("2.9.0+cu128", "2.10.0+cu130"))
    assert host_torch.version_now(made) == "2.10.0+cu130"

    metadata.unlink()
    metadata.parent.joinpath("RECORD").unlink()
    metadata.parent.joinpath("INSTALLER").unlink()
    metadata.parent.rmdir()
    assert host_torch.version_now(made) == ""


def test_a_folder_without_torch_is_refused_and_nothing_is_written(tmp_path, own):
    with pytest.raises(LookupError):
        host_torch.link(tmp_path, own)

    assert len(list(own.iterdir())) == 1


def test_a_damaged_note_is_as_none(own):
    (own / host_torch.NOTE).write_text("[")

    assert host_torch.linked(own) is None
    host_torch.unlink(own)
    assert not (own / host_torch.NOTE).exists()


def test_a_note_can_not_make_us_delete_other_folders(own, tmp_path):
    (own / host_torch.NOTE).write_text('{"info": ["../../precious", "torch"]}')
    for name in ("torch", "../../precious"):
        (own / name).mkdir()

    host_torch.unlink(own)

    assert (own / "torch").is_dir() and (tmp_path / "precious").is_dir()
