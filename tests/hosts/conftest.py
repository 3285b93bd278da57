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
