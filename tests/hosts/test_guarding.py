"""The guard and the credits in the embedded host's own generation (acceptance tests G1, G6, G7, and the log)."""

import json
from xml.etree import ElementTree

import pytest
from benchmarks import drawings
from PIL import Image

from lora_atelier.adapters import file
from lora_atelier.hosts import embedded, guarding
from lora_atelier.hosts.embedded import EmbeddedHost, GenerateRequest
from lora_atelier.models import layers
from lora_atelier.rights import calibration, credits, references

CREDITED = {"atelier_rights": json.dumps({"credits": ["Hana"], "memorisation": {"safe_weight": 0.6}})}


@pytest.fixture
def host(tiny_model_folder, tmp_path):
    return EmbeddedHost(tiny_model_folder, tmp_path / "データ", device="cpu")


@pytest.fixture
def add(host, random_lora):
    def write(name, metadata=None, pictures=()):
        path = host.lora_dirs()[0] / f"{name}.safetensors"
        made = file.write(path, random_lora(layers.target_layers(host.model().unet), size=0.1), metadata or {})
        if pictures:
            prepared = [calibration.prepare(f"{n}.png", str(n), each) for n, each in enumerate(pictures)]
            calibration.build(made, prepared).write(references.beside(path))
        return path

    return write


@pytest.fixture
def training():
    return [drawings.draw("street", 0, 128), drawings.draw("pattern", 0, 128)]


@pytest.fixture
def draws(monkeypatch):
    """A function that lets the host draw these pictures, whatever is asked."""

    def replace(*pictures):
        monkeypatch.setattr(embedded, "sample", lambda *_, **__: [each.copy() for each in pictures])

    return replace


def generate(host, prompt, **changes):
    values = {"steps": 1, "width": 64, "height": 64, "seed": 7}
    return host.generate(GenerateRequest(prompt=prompt, **{**values, **changes}))


def test_an_output_that_is_a_training_picture_is_said_shown_and_logged(host, add, training, draws):
    add("桃", CREDITED, training)
    draws(training[1].resize((96, 96)), drawings.draw("landscape", 5, 128))

    done = generate(host, "a cat <lora:桃:0.5>", batch_size=2)

    assert [each.verdict for each in done.findings] == ["copy-like", "nothing found"]
    assert "Picture 1 is copy-like" in str(done.compared)
    assert "“1.png” of 桃" in str(done.compared)
    log = host.guarding.log
    first, second = log.entries()
    assert first["picture"] == done.files[0].relative_to(host.data_dir / "outputs").as_posix()
    assert [(each["name"], each["unet"]) for each in first["loras"]] == [("桃", 0.5)]
    assert first["finding"]["near"]["picture"] == "1.png"
    assert Image.open(log.folder / "pairs" / first["pair"]).width > 700
    assert (second["finding"]["verdict"], second["pair"]) == ("nothing found", "")


def test_where_nothing_is_found_the_sentence_says_what_can_not_be_seen(host, add, training, draws):
    add("a", {}, training)
    draws(drawings.draw("landscape", 5, 128))

    assert "Style and likeness can't be seen" in str(generate(host, "a cat <lora:a:1>").compared)


def test_a_lora_without_kept_pictures_is_said_and_costs_nothing(host, add):
    add("a")

    done = generate(host, "a cat <lora:a:1>")

    assert done.findings[0].unknown == ("a",)
    assert "none are kept on this machine" in str(done.compared)
    assert done.comments == []


def test_without_a_lora_nothing_is_compared_said_or_logged(host, add, training):
    add("a", {}, training)

    for prompt in ("a cat", "a cat <lora:a:0>"):
        done = generate(host, prompt)
        assert (done.findings, done.compared, done.comments) == ([None], None, [])

    assert list(host.guarding.log.entries()) == []


def test_credits_name_exactly_the_loras_that_have_a_weight(host, add):
    add("a", CREDITED)
    add("b", {"modelspec.author": "Ken", "modelspec.license": "CC-BY-4.0"})
    add("c", {"modelspec.author": "Nobody"})

    done = generate(host, "secret words <lora:a:0.5> <lora:b:-0.3> <lora:c:0>")

    saved = Image.open(done.files[0])
    assert 'Credits: "a by Hana; b by Ken (CC-BY-4.0)"'.replace('"', "") in saved.info["parameters"].replace('"', "")
    packet = saved.info[credits.PNG_KEY]
    assert "secret words" not in packet
    assert "Nobody" not in packet
    tree = ElementTree.fromstring(packet.split("?>", 1)[1].rsplit("<?", 1)[0])
    assert [each.text for each in tree.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li")] == ["Hana", "Ken"]
    assert "trainedAlgorithmicMedia" in packet


def test_a_weight_above_the_tested_one_is_warned_of(host, add):
    add("a", CREDITED)

    assert "above 0.6" in str(generate(host, "a cat <lora:a:0.8>").comments[0])
    assert generate(host, "a cat <lora:a:0.6>").comments == []


def test_damaged_records_and_a_full_disk_cost_no_picture(host, add, training, draws, monkeypatch):
    path = add("a", {}, training)
    draws(training[0])
    references.beside(path).write_bytes(b"damaged")
    done = generate(host, "a cat <lora:a:1>")
    assert "training-pictures.npz is damaged" in str(done.comments[0])

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(guarding.GuardLog, "add", full)
    done = generate(host, "a cat <lora:a:1>")
    assert len(done.images) == 1
    assert "No space left on device" in " ".join(map(str, done.comments))


def test_a_model_of_the_persons_own_takes_part(host, add, training, draws):
    torch = pytest.importorskip("torch")

    class Brightness(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.adaptive_avg_pool2d(x, 8).flatten(1)

    host.guarding.folder.mkdir(parents=True)
    torch.jit.script(Brightness()).save(str(host.guarding.folder / guarding.EMBEDDER))
    add("a", {}, training)
    draws(training[0].rotate(2))

    done = generate(host, "a cat <lora:a:1>")

    assert done.findings[0].verdict == "copy-like"
    assert done.comments == []


def test_a_file_that_is_no_model_is_said(host, add, training, draws):
    host.guarding.folder.mkdir(parents=True)
    (host.guarding.folder / guarding.EMBEDDER).write_bytes(b"nothing")
    add("a", {}, training)
    draws(training[0])

    done = generate(host, "a cat <lora:a:1>")

    assert "can't be used to compare pictures" in str(done.comments[0])
    assert done.findings[0].verdict == "copy-like"
