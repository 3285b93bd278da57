from pathlib import Path

import pytest


@pytest.fixture
def make_webui(tmp_path, monkeypatch):
    """A function that makes a fake webui of a kind (importable), and its Host with loader and router in place."""
    pytest.importorskip("torch")
    from tests.hosts import fakes

    from lora_atelier.hosts import detection, network, router

    made = []

    def make(kind):
        fake = next(variant for variant in fakes.VARIANTS if variant.kind == kind)(tmp_path / kind)
        fakes.install(fake, monkeypatch)
        monkeypatch.chdir(fake.folder)
        host = detection.make()
        fake.register(network.make(fake.extra_networks, host))
        router.install(fake.extra_networks, host)
        made.append(fake)
        return fake, host

    return make


@pytest.fixture(params=("a1111", "forge", "reforge", "forge-classic", "sdnext"))
def webui(request, make_webui):
    return make_webui(request.param)


@pytest.fixture
def add(webui):
    """Write a LoRA for some layers; returns the changes of its layers."""

    import torch

    from lora_atelier.adapters import file

    from .layer_names import Q

    def write(name, *layers, seed=0, size=8):
        generator, tensors, deltas = torch.Generator().manual_seed(seed), {}, {}
        for layer in layers or (Q,):
            down, up = (torch.randn(shape, generator=generator) for shape in ((2, size), (size, 2)))
            tensors |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
            deltas[layer] = up @ down
        file.write(Path(webui[0].lora_dir()) / f"{name}.safetensors", tensors, {"ss_base_model_version": "sd_v1"})
        return deltas

    return write
