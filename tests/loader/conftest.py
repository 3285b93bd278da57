import pytest

from lora_atelier.adapters import file
from lora_atelier.loader.catalogue import Catalogue
from lora_atelier.loader.session import LoaderSession
from lora_atelier.models import layers

from .fakes import FakeHost


@pytest.fixture
def host(tiny_model):
    return FakeHost(tiny_model)


@pytest.fixture
def add(tmp_path, tiny_model, random_lora):
    """A function that writes a LoRA over U-Net and text encoder, or the tensors that it is given."""
    (tmp_path / "loras").mkdir()

    def write(name, tensors=None, metadata=None, **options):
        if tensors is None:
            targets = layers.target_layers(tiny_model.unet, conv=True)
            tensors = random_lora(targets | layers.target_layers(tiny_model.text_encoders[0]), **options)
        path = tmp_path / "loras" / f"{name}.safetensors"
        file.write(path, tensors, metadata or {})
        return path

    write.folder = tmp_path / "loras"
    return write


@pytest.fixture
def session(host, add):
    return LoaderSession(host, Catalogue([add.folder]))
