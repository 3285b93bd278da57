import os
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from lora_atelier.adapters import file
from lora_atelier.errors import HostError, ModelError
from lora_atelier.hosts import infotext
from lora_atelier.hosts.embedded import EmbeddedHost, GenerateRequest
from lora_atelier.loader.session import LoaderSettings
from lora_atelier.locales import sentence
from lora_atelier.models import layers
from lora_atelier.models.sample import Txt2Img
from lora_atelier.prompt import NetworkCall, parse


@pytest.fixture
def host(tiny_model_folder, tmp_path):
    return EmbeddedHost(tiny_model_folder, tmp_path / "データ", device="cpu")


@pytest.fixture
def add(host, random_lora):
    def write(name, **options):
        path = host.lora_dirs()[0] / f"{name}.safetensors"
        model = host.model()
        targets = layers.target_layers(model.unet) | layers.target_layers(model.text_encoders[0])
        file.write(path, random_lora(targets, size=0.3, **options), {})
        return path

    return write


def request(prompt="a cat", **changes):
    values = {"steps": 2, "cfg_scale": 3.0, "width": 64, "height": 64, "seed": 1}
    return GenerateRequest(prompt=prompt, **{**values, **changes})


def pixels(image):
    return np.asarray(image).astype(int)


def test_pictures_are_saved_with_the_text_that_made_them(host, add):
    add("猫 cat")

    done = host.generate(request("a cat, <lora:猫 cat:0.8>", negative_prompt="青", batch_size=2, batch_count=2))

    assert [path.name for path in done.files] == ["00001-1.png", "00002-2.png", "00003-3.png", "00004-4.png"]
    assert done.seeds == [1, 2, 3, 4]
    assert done.comments == []
    for path, image, text in zip(done.files, done.images, done.infotexts, strict=True):
        saved = Image.open(path)
        assert saved.info["parameters"] == text == image.info["parameters"]
        assert (pixels(saved) == pixels(image)).all()
    prompt, negative, values = infotext.parse(done.infotexts[2])
    assert (prompt, negative) == ("a cat, <lora:猫 cat:0.8>", "青")
    short = host.applied[0].content_hash[:12]
    assert values.items() >= {
        "Steps": "2", "Sampler": "DDIM", "CFG scale": "3", "Seed": "3", "Size": "64x64", "Model": "tiny model",
        "LoRA Atelier": f"猫 cat: {short}",
    }.items()  # fmt: skip


def test_the_text_encoder_does_not_see_the_tag(host, add):
    """At weight 0 the picture is that of the prompt without the tag, bit for bit."""
    add("a")

    plain, zero, one = (
        host.generate(request(prompt)).images[0] for prompt in ("a cat", "a cat <lora:a:0>", "a cat <lora:a:1>")
    )

    assert (pixels(plain) == pixels(zero)).all()
    assert abs(pixels(one) - pixels(plain)).max() > 5


def test_a_lora_leaves_no_trace_in_the_next_picture(host, add):
    add("a")
    before = host.generate(request()).images[0]

    host.generate(request("a cat <lora:a:1>"))

    assert (pixels(host.generate(request()).images[0]) == pixels(before)).all()
    assert host.applied == ()


def test_what_was_left_out_is_said_beside_the_picture(host, add):
    add("momo_figure")

    done = host.generate(request("a <lora:momo_figur:1> <lora:momo_figure:x>", negative_prompt="b <lora:c:1>"))

    assert len(done.images) == 1
    said = [sentence(comment) for comment in done.comments]
    assert any("“x” in “<lora:momo_figure:x>” is not a number" in each for each in said)
    assert any("Did you mean <lora:momo_figure:1>?" in each for each in said)
    assert any("<lora:c:1> in the negative prompt was ignored" in each for each in said)


def test_a_seed_below_zero_is_chosen_and_written_down(host):
    first, second = (host.generate(request(seed=-1)) for _ in range(2))

    assert first.seeds != second.seeds
    again = host.generate(request(seed=first.seeds[0]))
    assert (pixels(again.images[0]) == pixels(first.images[0])).all()


def test_progress_counts_the_steps_of_all_batches(host):
    seen = []

    host.generate(request(batch_count=2), on_progress=lambda step, steps: seen.append((step, steps)))

    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_cancelling_keeps_the_finished_pictures_and_the_next_request_works(host):
    def stop_in_the_second_batch(step, steps):
        if step == 3:
            host.cancel()

    done = host.generate(request(batch_count=3), on_progress=stop_in_the_second_batch)

    assert len(done.images) == 1
    assert sentence(done.comments[0]) == "Stopped; 1 of 3 pictures are finished."
    assert len(host.generate(request()).images) == 1


@pytest.mark.parametrize("originals", ["copy", "reread"])
def test_every_picture_has_its_own_loras_while_others_switch_them(tiny_model_folder, tmp_path, random_lora, originals):
    """Two threads draw while a third keeps changing weights; LORA_ATELIER_SECONDS=60 makes it a minute."""
    host = EmbeddedHost(tiny_model_folder, tmp_path, device="cpu", loader=LoaderSettings(originals=originals))
    targets = layers.target_layers(host.model().unet) | layers.target_layers(host.model().text_encoders[0])
    for at, name in enumerate("ab"):
        file.write(host.lora_dirs()[0] / f"{name}.safetensors", random_lora(targets, size=0.3, seed=at), {})
    prompts = ["x", "x <lora:a:1>", "x <lora:b:1>", "x <lora:b:0.5> <lora:a:-0.7>"]
    expected = {prompt: pixels(host.generate(request(prompt)).images[0]) for prompt in prompts}
    assert len({image.tobytes() for image in expected.values()}) == len(prompts)  # else a mix-up would not be seen
    end = time.monotonic() + float(os.environ.get("LORA_ATELIER_SECONDS", "3"))
    counts, wrong = [0, 0, 0], []

    def draw(thread):
        while time.monotonic() < end:
            prompt = prompts[(counts[thread] + thread) % len(prompts)]
            if (pixels(host.generate(request(prompt)).images[0]) != expected[prompt]).any():
                wrong.append(prompt)
            counts[thread] += 1

    def switch():
        while time.monotonic() < end:
            host.draw(
                Txt2Img(prompts=["y"], steps=1, width=64, height=64, seeds=[1]),
                [NetworkCall("ab"[counts[2] % 2], unet=counts[2] % 7 / 3)],
            )
            counts[2] += 1

    threads = [threading.Thread(target=draw, args=(at,)) for at in range(2)] + [threading.Thread(target=switch)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert min(counts) > 0
    assert wrong == []


@pytest.mark.parametrize(("policy", "threads"), [("PASSIVE", 3), ("", 1)])
def test_the_small_model_gets_one_thread_where_waiting_threads_spin(host, monkeypatch, policy, threads):
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)

    try:
        host.generate(request(), on_progress=lambda *_: seen.append(torch.get_num_threads()))

        assert set(seen) == {threads}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_drawing_plainly_applies_loras_and_saves_nothing(host, add):
    add("a")
    asked = Txt2Img(prompts=["a cat", "a dog"], steps=2, width=64, height=64, seeds=(1, 2))

    images, notes = host.draw(asked, parse("<lora:a:1> <lora:none:1>").calls)

    assert len(images) == 2
    assert len(notes) == 1
    assert not (host.data_dir / "outputs").exists()


def test_a_picture_that_can_not_be_saved_is_shown_all_the_same(host):
    (host.data_dir / "outputs").write_text("in the way")

    done = host.generate(request(batch_size=2))

    assert len(done.images) == 2
    assert done.files == [None, None]
    assert len(done.comments) == 1
    assert "could not be saved" in sentence(done.comments[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"batch_size": 0}, "must be 1 to 100"), ({"width": 65}, "multiples of 8"), ({"sampler": "x"}, "no sampler")],
)
def test_a_request_that_can_not_be_done_says_why(host, changes, said):
    with pytest.raises(HostError, match=said):
        host.generate(request(**changes))


def test_too_little_memory_is_said_in_a_sentence_and_nothing_stays_changed(host, add, monkeypatch):
    add("a")
    before = {name: layer.view("weight").clone() for name, layer in host.layers().items()}

    def no_memory(*_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 123 bytes")

    monkeypatch.setattr("lora_atelier.loader.patching.merge", no_memory)
    with pytest.raises(HostError, match="not enough memory"):
        host.generate(request("a <lora:a:1>"))
    monkeypatch.undo()

    assert all(torch.equal(layer.view("weight"), before[name]) for name, layer in host.layers().items())
    assert host.generate(request("a <lora:a:1>")).comments == []


def test_an_embedding_in_a_lora_file_is_a_word_as_long_as_the_lora_is_on(host, add):
    path = add("a")
    content = file.read(path)
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    file.write(path, {**content.tensors, "bundle_emb.momo.string_to_param.*": vectors}, {})
    plain = host.generate(request("a momo")).images[0]

    without, named = (host.generate(request(f"a {word} <lora:a:0>")).images[0] for word in ("momi", "momo"))
    after = host.generate(request("a momo"))

    assert after.comments == []
    assert (pixels(named) != pixels(plain)).any()
    assert (pixels(without) == pixels(host.generate(request("a momi")).images[0])).all()
    assert (pixels(after.images[0]) == pixels(plain)).all()


def test_an_embedding_of_another_width_is_left_out_and_said(host, add):
    path = add("a")
    file.write(path, {**file.read(path).tensors, "bundle_emb.momo.clip_l": torch.zeros(2, 768)}, {})

    done = host.generate(request("a momo <lora:a:1>"))

    assert [sentence(comment) for comment in done.comments] == [
        "The embedding “momo” was left out: it is for another model's text encoder."
    ]


def test_a_base_model_that_was_replaced_while_a_lora_is_on_is_loaded_again(
    save_model, tiny_model_folder, tmp_path, random_lora
):
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    host = EmbeddedHost(folder, tmp_path / "data", device="cpu", loader=LoaderSettings(originals="reread"))
    model = host.model()
    file.write(host.lora_dirs()[0] / "a.safetensors", random_lora(layers.target_layers(model.unet)), {})
    host.generate(request("<lora:a:1>"))
    save_model(tmp_path / "other", seed=9)
    fresh = EmbeddedHost(tmp_path / "other", tmp_path / "data2", device="cpu").generate(request())
    shutil.copytree(tmp_path / "other", folder, dirs_exist_ok=True)

    done = host.generate(request())

    assert [sentence(c) for c in done.comments] == [
        "The base model's file was changed while a LoRA was on; it was loaded again."
    ]
    assert (pixels(done.images[0]) == pixels(fresh.images[0])).all()


def test_the_model_is_loaded_when_it_is_first_needed_and_can_be_freed(host, add):
    assert host._model is None
    assert host.current().family == "toy"
    first = host.generate(request()).images[0]
    add("a")
    host.generate(request("<lora:a:1>"))

    host.unload()

    assert host._model is None
    assert (pixels(host.generate(request()).images[0]) == pixels(first)).all()


def test_another_model_can_be_chosen_and_a_bad_one_changes_nothing(host, save_model, tmp_path):
    save_model(host.data_dir / "models" / "other", seed=9)
    (host.data_dir / "models" / "broken.safetensors").write_bytes(b"no")
    (host.data_dir / "models" / "notes.txt").write_bytes(b"no")
    first = host.generate(request()).images[0]

    offered = {checkpoint.title: checkpoint for checkpoint in host.checkpoints()}

    assert offered.keys() == {"tiny model", "other", "broken"}
    assert "broken or incomplete" in str(offered["broken"].problem)
    with pytest.raises(ModelError):
        host.select(offered["broken"].path)
    assert host.current().title == "tiny model"
    host.select(offered["other"].path)
    assert (pixels(host.generate(request()).images[0]) != pixels(first)).any()
    assert infotext.parse(host.generate(request()).infotexts[0])[2]["Model"] == "other"


def test_a_model_that_can_not_be_used_is_refused_when_the_host_is_made(tmp_path):
    with pytest.raises(ModelError, match="There is no model at"):
        EmbeddedHost(tmp_path / "none", tmp_path)
