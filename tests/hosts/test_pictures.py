"""What becomes of the pictures that webuis make with our LoRAs, against fakes of how they tell of them."""

import json
import types
from pathlib import Path

import pytest
from benchmarks import drawings
from PIL import Image

from lora_atelier.rights import calibration, credits, guard_log, references, signals_embedded

Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CREDITED = {"atelier_rights": json.dumps({"credits": ["Hana"]}), "modelspec.license": "CC-BY-4.0"}
KINDS = ("a1111", "forge", "reforge", "forge-classic", "sdnext")


@pytest.fixture(params=KINDS)
def webui(request, make_webui):
    return make_webui(request.param)


@pytest.fixture
def training():
    return [drawings.draw("street", 0, 128), drawings.draw("pattern", 0, 128)]


@pytest.fixture
def lora(webui, training):
    """A LoRA that names whom to credit and whose training pictures are kept."""
    import torch

    from lora_atelier.adapters import file

    tensors = {f"{Q}.lora_down.weight": torch.ones(2, 8), f"{Q}.lora_up.weight": torch.ones(8, 2)}
    path = Path(webui[0].lora_dir()) / "mine.safetensors"
    model_hash = file.write(path, tensors, CREDITED)
    prepared = [calibration.prepare(f"{n}.png", str(n), each) for n, each in enumerate(training)]
    calibration.build(model_hash, prepared).write(references.beside(path))
    return path


def save(host, p, image, name, **pnginfo):
    """What a webui does to save a picture."""
    path = host.data_dir.parent / "outputs" / name
    path.parent.mkdir(exist_ok=True)
    params = types.SimpleNamespace(p=p, image=image, filename=str(path), pnginfo={"parameters": "a cat", **pnginfo})
    host.pictures.before_saved(params)
    exif = Image.Exif()
    exif[0x9286] = "a cat"
    image.save(path, **({} if path.suffix == ".png" else {"exif": exif}))
    host.pictures.saved(params)
    return params, path


def test_the_credits_stand_in_the_pictures_text_and_in_its_file(webui, lora):
    fake, host = webui
    _, p = fake.draw("a cat <lora:mine:0.5>")
    image = drawings.draw("landscape", 5, 128)

    host.pictures.made(p, image)
    params, _ = save(host, p, image, "1.png")

    assert p.extra_generation_params["Credits"] == "mine by Hana (CC-BY-4.0)"
    packet = params.pnginfo[credits.PNG_KEY]
    assert "trainedAlgorithmicMedia" in packet
    assert "Hana" in packet
    assert "a cat" not in packet
    assert image.info[credits.PNG_KEY] == packet  # what is sent over the API has the same


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_the_credits_are_added_to_files_for_which_the_webui_takes_no_xmp(webui, lora, suffix):
    fake, host = webui
    _, p = fake.draw("a cat <lora:mine:0.5>")

    _, path = save(host, p, drawings.draw("landscape", 5, 128), f"1.{suffix}")

    data = path.read_bytes()
    assert signals_embedded.read(data).rights.credit == "mine by Hana (CC-BY-4.0)"
    with Image.open(path) as opened:
        assert opened.getexif()[0x9286] == "a cat"
        opened.load()


def test_a_picture_that_copies_one_is_said_beside_it_and_logged_under_its_files_name(webui, lora, training):
    fake, host = webui
    _, p = fake.draw("a cat <lora:mine:0.5>")
    image = training[1].resize((96, 96))

    (said,) = host.pictures.made(p, image)
    save(host, p, image, "00001-7.png")

    assert "copy-like" in str(said)
    (entry,) = host.pictures.guarding.log.entries()
    assert entry["picture"] == "outputs/00001-7.png"
    assert entry["finding"]["near"]["picture"] == "1.png"
    assert [(each["name"], each["unet"]) for each in entry["loras"]] == [("mine", 0.5)]
    assert (host.data_dir / "rights" / guard_log.PAIRS / entry["pair"]).is_file()


def test_where_nothing_is_found_nothing_is_said_and_the_log_has_it(webui, lora):
    fake, host = webui
    _, p = fake.draw("a cat <lora:mine:0.5>")

    assert host.pictures.made(p, drawings.draw("landscape", 5, 128)) == []
    assert host.pictures.made(p, drawings.draw("landscape", 6, 128)) == []
    host.pictures.finished(p)

    log = list(host.pictures.guarding.log.entries())
    assert [entry["finding"]["verdict"] for entry in log] == ["nothing found"] * 2
    assert all(entry["picture"].startswith("unsaved") for entry in log)


def test_only_the_finished_picture_is_logged_of_those_that_a_webui_saves(webui, lora):
    fake, host = webui
    _, p = fake.draw("a cat <lora:mine:0.5>")
    p.outpath_samples, p.outpath_grids = "outputs", "grids"
    image = drawings.draw("landscape", 5, 128)

    save(host, p, image, "00001-7-before-highres-fix.png")
    host.pictures.made(p, image)
    save(host, p, image, "00001-7-before-color-correction.png")
    save(host, p, image, "00001-7.png")
    save(host, p, image, "00001-7-mask.png")
    save(host, p, image, "grid-0001.png")
    host.pictures.finished(p)

    assert [entry["picture"] for entry in host.pictures.guarding.log.entries()] == ["outputs/00001-7.png"]


def test_a_picture_that_no_script_was_shown_is_compared_when_it_is_saved(webui, lora, training):
    """SD.Next's control page."""
    fake, host = webui
    _, p = fake.draw("a cat <lora:mine:0.5>")
    p.outpath_samples, p.outpath_grids = "outputs", "outputs/grids"

    save(host, p, training[0], "00001-7.jpg")
    (host.data_dir.parent / "outputs" / "grids").mkdir()
    save(host, p, training[0], "grids/0001.jpg")

    (entry,) = host.pictures.guarding.log.entries()
    assert (entry["picture"], entry["finding"]["verdict"]) == ("outputs/00001-7.jpg", "copy-like")


@pytest.mark.parametrize("prompt", ["a cat", "a cat <lora:mine:0>"])
def test_pictures_without_a_lora_are_left_alone(webui, lora, prompt):
    fake, host = webui
    fake.draw("a cat <lora:mine:1>")
    _, p = fake.draw(prompt)
    image = drawings.draw("landscape", 5, 128)

    assert host.pictures.made(p, image) == []
    params, path = save(host, p, image, "1.jpg")
    upscaled, _ = save(host, None, image, "2.png")  # the extras page: no generation

    assert list(params.pnginfo) == list(upscaled.pnginfo) == ["parameters"]
    assert b"xpacket" not in path.read_bytes()
    assert list(host.pictures.guarding.log.entries()) == []


def test_a_full_disk_costs_no_picture(webui, lora, monkeypatch):
    fake, host = webui
    _, p = fake.draw("a cat <lora:mine:0.5>")

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(guard_log.GuardLog, "add", full)
    host.pictures.made(p, drawings.draw("landscape", 5, 128))
    save(host, p, drawings.draw("landscape", 5, 128), "1.png")


def test_sdnext_shows_what_was_said_of_a_generation(make_webui):
    _, host = make_webui("sdnext")
    p = types.SimpleNamespace(comments={"There is no LoRA called “x”.": 1})
    processed = types.SimpleNamespace(comments="another")

    host.show_comments(p, processed)

    assert processed.comments == "another\nThere is no LoRA called “x”."


def test_a_pair_is_drawn_with_the_pillow_of_2023_too(monkeypatch, training):
    """AUTOMATIC1111's webui has Pillow 9.5, whose own font has one size."""
    from PIL import ImageFont

    own = ImageFont.load_default
    monkeypatch.setattr(ImageFont, "load_default", lambda: own())

    assert guard_log.side_by_side(training[0], training[1], "1.png", "mine").width > 700
