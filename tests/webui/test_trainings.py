"""What a real webui does beside a training: its pictures wait, it draws the samples, it compares checkpoints."""

import json
import shutil
import threading
import time

import pytest

pytestmark = pytest.mark.host
WAITS = "LoRA training holds the graphics card"


@pytest.fixture
def training(webui, plain):
    """One that goes on until the end of the test, or until it is stopped there."""
    from tests.webui import trainings

    run = trainings.train(webui, "in the way", steps=40_000)
    trainings.until_step(webui, run, 1)
    yield run
    trainings.stop(webui, run)


def test_a_picture_waits_visibly_while_a_training_goes_on_and_the_model_comes_back(webui, plain, training):
    from tests.webui import trainings

    drawn = []
    thread = threading.Thread(target=lambda: drawn.append(webui.draw("a cat")))
    thread.start()
    until(lambda: WAITS in json.dumps(webui.call("GET", "/sdapi/v1/progress?skip_current_image=true")))
    assert gpu(webui, training) == {"mode": "wait", "lent": True, "shared": False, "waiting": 1}
    assert webui.ours("GET", f"runs/{training}")["status"] == "running" and not drawn

    trainings.stop(webui, training)
    thread.join(300)

    assert drawn[0].hash == plain.hash
    assert WAITS not in json.dumps(webui.call("GET", "/sdapi/v1/progress?skip_current_image=true"))
    assert gpu(webui, training)["waiting"] == 0


def test_a_picture_that_waits_is_drawn_beside_the_training_where_the_person_says_so(webui, plain, training):
    drawn = []
    thread = threading.Thread(target=lambda: drawn.append(webui.draw("a cat")))
    thread.start()
    until(lambda: gpu(webui, training)["waiting"] == 1)

    webui.ours("POST", "gpu", {"share": True})
    thread.join(300)

    assert drawn[0].hash == plain.hash
    assert webui.ours("GET", f"runs/{training}")["status"] == "running"


@pytest.mark.browser
def test_the_page_says_for_what_a_picture_waits(webui, plain, training, browser):
    from tests.webui import pages, trainings

    page = pages.open_page(browser, webui)
    pages.press_generate(page, webui, "a cat")
    page.get_by_text(WAITS).first.wait_for(timeout=120_000)
    pages.keep(page, webui, "waits")

    trainings.stop(webui, training)
    page.wait_for_function(pages.ENDED, timeout=300_000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_trainings_samples_are_drawn_by_the_webuis_own_sampler_where_it_keeps_its_model(webui, plain):
    """On a base model of SD 1.5's own size, as far as the webui reads files: our trainer trains no other one."""
    from PIL import Image
    from tests.webui import models, trainings

    name = "first" if webui.kind.widths is None else "full"
    base = webui.models / "Diffusers" / name
    if webui.kind.widths is not None:
        base = models.write(webui.kind, webui.models, webui.folder, name=name, seed=3, full=True)
        webui.call("POST", "/sdapi/v1/refresh-checkpoints", {})
    webui.choose(name)
    webui.draw("a cat")
    webui.set(atelier_gpu="keep")
    try:
        run = trainings.train(
            webui, "with samples", steps=4, base=base, sampling__prompts=["a zuzu --w 128 --h 128 --d 7 --s 3 --l 5"],
            sampling__sampler="euler", sampling__every_n_steps=4, dataset__resolution=[128, 128],
            dataset__min_bucket_reso=128,
        )  # fmt: skip
        folder = webui.data / "lora-atelier" / "runs" / run
        until((folder / "previews" / "ready").exists)
        assert trainings.ended(webui, run)["status"] == "finished"
        sample = Image.open(next((folder / "samples").glob("step-000004-01.png"))).convert("RGB")
        asked = {"seed": 7, "steps": 3, "cfg_scale": 5, "sampler_name": "Euler", "width": 128, "height": 128}
        made = next(webui.lora_dir.glob("with*samples*.safetensors")).stem
        again = webui.draw(f"a zuzu <lora:{made}:1>", **asked)

        # The LoRA's file has half of the numbers' digits.
        assert again.difference_to(sample) <= webui.kind.rounding
        assert again.difference(webui.draw("a zuzu", **asked)) > 0
        assert not list((folder / "previews").glob("*.failed"))
        assert not list(webui.lora_dir.glob("atelier-preview-*"))
    finally:
        webui.set(atelier_gpu="wait")
        webui.choose("first")
        if webui.kind.widths is not None:
            base.unlink()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_checkpoints_are_compared_by_the_webuis_own_sampler(webui, plain):
    """The run trained the embedded base model; a LoRA for the webui's takes the place of what it made.

    One picture only: each has the model's own size, and is made in twenty steps.
    """
    from PIL import Image
    from tests.webui import trainings

    run = trainings.train(webui, "compared", steps=1)
    assert trainings.ended(webui, run)["status"] == "finished"
    made = next(webui.lora_dir.glob("compared*.safetensors"))
    folder = webui.data / "lora-atelier" / "runs" / run
    for path in (made, *(folder / "checkpoints").glob("*.safetensors"), *(folder / "best").glob("*.safetensors")):
        shutil.copy(webui.lora_dir / "one.safetensors", path)

    answer = webui.ours("POST", f"checkpoints/{run}/compare", {"prompt": "a cat", "weights": [0.8], "seed": 7})
    assert "grid" in answer, answer
    until(lambda: grid(webui, run)["state"] != "drawing", seconds=1800)

    assert grid(webui, run)["state"] == "finished", grid(webui, run)
    cell = Image.open(folder / "compare" / "step-000001-0.8.png").convert("RGB")
    asked = {
        "seed": 7,
        "steps": 20,
        "cfg_scale": 7,
        "sampler_name": "Euler",
        "width": cell.width,
        "height": cell.height,
    }
    assert webui.draw(f"a cat <lora:{made.stem}:0.8>", **asked).difference_to(cell) == 0
    assert not list(webui.lora_dir.glob("atelier-compare-*"))


def gpu(webui, run):
    return webui.ours("GET", f"runs/{run}/live")["gpu"]


def grid(webui, run):
    return webui.ours("GET", f"checkpoints/{run}")["grid"]


def until(what, seconds=120):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.5)
