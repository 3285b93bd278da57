"""A loader with a host around a tiny model. What needs torch is imported by the fixtures: some tests here do not."""

import pytest


@pytest.fixture
def host(tiny_model):
    from .fakes import FakeHost

    return FakeHost(tiny_model)


@pytest.fixture
def add(tmp_path, tiny_model, random_lora):
    """A function that writes a LoRA over U-Net and text encoder, or the tensors that it is given."""
    from lora_atelier.adapters import file
    from lora_atelier.models import layers

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
    from lora_atelier.loader.catalogue import Catalogue
    from lora_atelier.loader.session import LoaderSession

    return LoaderSession(host, Catalogue([add.folder]))
