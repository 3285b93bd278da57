"""Rights on the page: asked only where something is to be decided, stated once, undone with one click."""

import io
from pathlib import Path

import pytest
from PIL import Image
from tests.rights.fixtures import picture, xmp

pytestmark = pytest.mark.browser

LINE = "document.querySelector('.atelier-rights-line').textContent"
PLAN = "document.querySelector('#atelier_plan').textContent"


def drop(page, files):
    page.get_by_role("tab", name="LoRA Atelier").click()
    page.click("#atelier_page_new")
    page.wait_for_selector("#atelier_train")
    page.set_input_files("#atelier_files", files)
    page.wait_for_function(f"document.querySelectorAll('.atelier-tile').length === {len(files)}")


@pytest.fixture
def own(tmp_path):
    """Two drawings; one knows where it was made."""
    made = []
    for color in ("peru", "teal"):
        path = tmp_path / f"{color}.jpg"
        image = Image.effect_noise((96, 96), 40).convert("RGB")
        exif = image.getexif()
        if color == "peru":
            exif.get_ifd(0x8825).update({1: "N", 2: (35.0, 41.0, 22.0), 3: "E", 4: (139.0, 41.0, 30.0)})
        data = io.BytesIO()
        Image.blend(image, Image.new("RGB", image.size, color), 0.6).save(data, "JPEG", exif=exif)
        path.write_bytes(data.getvalue())
        made.append(path)
    return made


@pytest.fixture
def forbidden(tmp_path):
    path = Path(tmp_path / "forbidden.png")
    path.write_bytes(picture("PNG", xmp("DMI-PROHIBITED"), color="red"))
    return path


def test_own_pictures_ask_for_nothing_and_lose_their_place_with_one_click(page, own):
    drop(page, own)
    page.select_option("#atelier_whose", "mine")

    page.wait_for_function(f"{LINE}.includes('2 pictures are used: own work.')")
    assert page.locator(".atelier-rights-group").count() == 0
    assert page.locator(".atelier-tile-rights:not([hidden])").count() == 0
    assert page.locator("#atelier_licence").count() == 0

    page.click("#atelier_strip")
    page.click("#atelier_unstrip")
    page.wait_for_selector("#atelier_strip")


def test_an_open_licence_is_asked_for_where_it_is_missing_and_one_picture_differs(page, own, forbidden):
    drop(page, [*own, forbidden])
    page.select_option("#atelier_whose", "open-licence")
    page.wait_for_selector('.atelier-rights-group[data-rule="licence"]')
    page.wait_for_function("document.querySelectorAll('.atelier-tile-rights.is-refused:not([hidden])').length === 2")
    page.click("#atelier_train")
    page.wait_for_selector(".atelier-notes .atelier-error:has-text('None of the pictures')")

    page.fill("#atelier_licence", "cc by 4.0")
    page.keyboard.press("Tab")
    page.wait_for_function(f"{LINE}.includes('CC-BY-4.0')")
    page.wait_for_function("document.querySelectorAll('.atelier-rights-group').length === 1")

    page.click('.atelier-tile-open[title^="teal.jpg"]')
    page.click("#atelier_picture_rights summary")
    page.fill("#atelier_picture_licence", "CC0")
    page.keyboard.press("Tab")
    page.wait_for_function("document.querySelector('#atelier_picture_rights summary').textContent.includes('CC0-1.0')")
    page.keyboard.press("Escape")
    page.wait_for_function(f"{LINE}.includes('CC0-1.0: 1')")
    page.wait_for_selector('.atelier-tile-rights:text("CC0-1.0")')


def test_a_prohibition_is_set_aside_only_with_a_name_and_a_reason(page, own, forbidden):
    drop(page, [*own, forbidden])
    page.select_option("#atelier_whose", "mine")
    page.wait_for_function(f"{PLAN}.startsWith('2 of 3 pictures, ')")
    page.click('.atelier-rights-group[data-rule="reservation"] .atelier-link')
    page.wait_for_function("document.querySelectorAll('.atelier-tile').length === 1")

    page.click("[data-remedy=override]")
    page.click("dialog button[type=submit]")
    assert page.locator("dialog[open]").count() == 1  # a name is missing
    page.fill("#atelier_override_by", "Ada <b>")
    page.fill("#atelier_override_reason", "I drew it")
    page.keyboard.press("Enter")

    page.wait_for_function(f"{LINE}.includes('3 pictures are used: own work.')")
    page.wait_for_function(f"{PLAN}.startsWith('3 pictures, ')")


def test_the_guide_for_creators_is_one_click_away_in_the_readers_language(page):
    page.get_by_role("tab", name="LoRA Atelier").click()
    with page.expect_popup() as opened:
        page.click("#atelier_guide")
    opened.value.wait_for_selector("h1:has-text('Training on pictures')")
    opened.value.close()


def test_the_folder_of_sd_scripts_is_given_and_what_it_lacks_is_said(page, tmp_path):
    page.get_by_role("tab", name="LoRA Atelier").click()
    page.click("#atelier_page_expert")
    page.wait_for_selector("#atelier_set_network_rank")
    assert not page.is_visible("#atelier_engine_card")
    page.select_option("#atelier_engine", "sd-scripts")
    said = "document.querySelector('#atelier_engine_card').textContent"
    page.wait_for_function(f"{said}.includes('no sd-scripts on this machine')")

    page.fill("#atelier_checkout", str(tmp_path))
    page.wait_for_function(f"{said}.includes('train_network.py is not there')")
    (tmp_path / "library").mkdir()
    for file in ("train_network.py", "library/train_util.py"):
        (tmp_path / file).write_text("")
    page.fill("#atelier_checkout", f"{tmp_path}/")
    page.wait_for_function(f"{said}.includes('has no environment')")
