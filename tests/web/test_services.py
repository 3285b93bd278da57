from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.jobs.fakes import write_model_headers

from lora_atelier.hosts.base import Checkpoint
from lora_atelier.loader.catalogue import Catalogue
from lora_atelier.models.detect import inspect
from lora_atelier.rights import signals
from lora_atelier.web.services import services

pytestmark = pytest.mark.torchfree


def test_a_host_gives_its_folders_and_its_usable_models_the_chosen_one_first(tmp_path):
    first, chosen = (inspect(write_model_headers(tmp_path / name)) for name in ("a", "b"))
    broken = Checkpoint(tmp_path / "c", "c")
    host = SimpleNamespace(
        data_dir=tmp_path / "data",
        catalogue=Catalogue([]),
        lora_dirs=lambda: [tmp_path / "loras"],
        current=lambda: chosen,
        refresh_adapters=lambda: None,
        checkpoints=lambda: [Checkpoint(first.path, "a", first), broken, Checkpoint(chosen.path, "b", chosen)],
    )

    made = services(host)

    assert made.base_models() == [chosen, first]
    assert made.jobs.lora_dir == tmp_path / "loras"
    assert made.uploads.refusal is signals.refusal
    assert made.uploads.folder == tmp_path / "data" / "uploads"
    assert made.regularisation(chosen) is None
    assert isinstance(made.jobs.data_dir, Path)
