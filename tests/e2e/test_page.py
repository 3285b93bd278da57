"""The page as a person meets it: what it says to wrong input, and that nothing is lost."""

import io
import os
import re
import shutil
import time

import pytest
from PIL import Image, PngImagePlugin

from lora_atelier.events import Appender, Started, Stepped, Stopped
from lora_atelier.jobs.run_dir import Job, RunDir

pytestmark = pytest.mark.browser

PROHIBITED = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" '
    'plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED"/></rdf:RDF></x:xmpmeta>'
)


def open_tab(page, place="new"):
    page.get_by_role("tab", name="LoRA Atelier").click()
    page.click(f"#atelier_page_{place}")
    page.wait_for_selector({"new": "#atelier_train", "queue": "#atelier_queue", "expert": ".atelier-setting"}[place])


def answer(page, name="momo", trigger="momo", whose="mine"):
    page.fill("#atelier_name", name)
    page.fill("#atelier_trigger", trigger)
    page.select_option("#atelier_whose", whose)


def said(page, field):
    return page.locator(f'.atelier-said[data-field="{field}"]')


@pytest.fixture
def pictures(tmp_path):
    made = []
    for at in range(3):
        path = tmp_path / f"picture {at}.png"
        noise = Image.effect_noise((128, 128), 40).convert("RGB")
        Image.blend(noise, Image.new("RGB", noise.size, ("red", "green", "blue")[at]), 0.6).save(path)
        made.append(path)
    return made


def test_train_without_pictures_says_that_they_are_missing(page):
    open_tab(page)

    page.click("#atelier_train")

    page.wait_for_function(
        """document.querySelector('.atelier-said[data-field="pictures"]').textContent.includes('no pictures')"""
    )
    # Everything else may be left open.
    for field in ("name", "trigger", "whose"):
        assert said(page, field).inner_text() == ""


def test_only_pictures_are_needed_and_what_is_left_open_is_suggested(page, pictures):
    open_tab(page)

    page.set_input_files("#atelier_files", pictures)

    page.wait_for_function("document.querySelector('#atelier_plan').textContent.includes('3 pictures')")
    suggested = page.get_attribute("#atelier_trigger", "placeholder")
    assert suggested.isalpha() and suggested in page.inner_text(".atelier-facts")
    page.fill("#atelier_trigger", "cat")
    page.click('.atelier-said[data-field="trigger"] .atelier-link')
    assert page.input_value("#atelier_trigger") not in ("", "cat")


def test_pictures_with_problems_are_left_out_with_one_click_and_taken_back(page, pictures, tmp_path):
    double = tmp_path / "again.jpg"
    with Image.open(pictures[0]) as image:
        image.save(double, quality=70)
    open_tab(page)
    page.set_input_files("#atelier_files", [*pictures, double])
    page.wait_for_function("document.querySelectorAll('.atelier-tile').length === 4")

    page.click('#atelier_remedies .atelier-chip[data-kind="duplicate"]')
    page.wait_for_function("document.querySelectorAll('.atelier-tile').length === 3")
    page.wait_for_function("document.querySelector('#atelier_plan').textContent.includes('3 pictures')")

    page.click("#atelier_left_out .atelier-link")
    page.wait_for_function("document.querySelectorAll('.atelier-tile').length === 4")


def test_a_caption_is_written_in_the_large_view_and_html_in_it_is_text(page, pictures):
    open_tab(page)
    page.set_input_files("#atelier_files", pictures)
    page.wait_for_function("document.querySelectorAll('.atelier-tile').length === 3")

    page.click(".atelier-tile-open >> nth=0")
    page.fill("#atelier_caption", "<img src=x onerror=alert(1)> & 桃")
    page.click("#atelier_next_picture")
    page.keyboard.press("Escape")

    page.wait_for_function("document.querySelector('#atelier_thumbnails').textContent.includes('onerror=alert(1)')")
    assert page.locator("#atelier_thumbnails img[src='x']").count() == 0
    assert page.locator("dialog").count() == 0


def test_dropped_pictures_are_shown_with_what_is_wrong_with_each(page, pictures, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("I am no picture", encoding="utf-8")
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", PROHIBITED)
    forbidden = tmp_path / "禁止.png"
    Image.new("RGB", (128, 128), "red").save(forbidden, pnginfo=info)
    (tmp_path / "picture 0.txt").write_text("a 桃 on a table", encoding="utf-8")
    open_tab(page)

    page.set_input_files("#atelier_files", [*pictures, text, forbidden, tmp_path / "picture 0.txt"])

    page.wait_for_selector(".atelier-tile.is-refused")
    grid = page.inner_text("#atelier_thumbnails")
    assert "a 桃 on a table" in grid
    assert "forbids training" in grid
    assert page.locator(".atelier-tile").count() >= 4
    everything = page.inner_text("#atelier_root")
    assert "text.png" in everything, everything


def test_the_plan_says_pictures_steps_and_time_before_anything_starts(page, pictures):
    open_tab(page)
    answer(page)

    page.set_input_files("#atelier_files", pictures)

    page.wait_for_function("document.querySelector('#atelier_plan').textContent.includes('3 pictures')")
    plan = page.inner_text("#atelier_plan")
    assert re.search(r"\d+ steps", plan) and re.search(r"about .*(seconds|minutes)", plan) and "MB" in plan


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("a/b:c<d>", r"<lora:a-b-c-d:0\.8>"),
        ("桃の絵", None),
        ("with spaces", r"<lora:with_spaces:0\.8>"),
        ("x" * 64, None),
        ("x" * 70, r"<lora:x{64}:0\.8>"),
    ],
)
def test_a_name_is_made_usable_before_the_users_eyes(page, typed, shown):
    open_tab(page)
    page.fill("#atelier_name", typed)

    page.wait_for_function(
        "expected => { const said = document.querySelector('.atelier-said[data-field=\"name\"]').textContent;"
        "return expected ? said.includes('<lora:') : true }",
        arg=bool(shown),
    )
    if shown:
        assert re.search(shown, said(page, "name").inner_text())
    else:
        page.wait_for_timeout(1500)
        assert said(page, "name").inner_text() == ""


def test_a_folder_of_5000_pictures_is_accepted_and_the_plan_says_how_long(page, tmp_path):
    folder = tmp_path / "many pictures"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "00000.png")
    data = (folder / "00000.png").read_bytes()
    for at in range(1, 5000):
        (folder / f"{at:05}.png").write_bytes(data)
    open_tab(page)
    answer(page)

    page.click("#atelier_type_path")
    page.fill("#atelier_folder", str(folder))
    page.click("#atelier_open_folder")

    page.wait_for_function("document.querySelector('#atelier_plan').textContent.includes('5000 pictures')")
    assert "5000 pictures" in page.inner_text("#atelier_count")
    assert page.locator(".atelier-tile").count() <= 120
    assert page.locator("#atelier_train").is_enabled()


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_html_in_the_names_and_captions_of_a_folder_is_text(page, tmp_path):
    name = "<img src=x onerror='window.hacked=1'>"
    Image.effect_noise((96, 96), 80).convert("RGB").save(tmp_path / f"{name}.png")
    (tmp_path / f"{name}.txt").write_text("<script>window.hacked=1</script>", encoding="utf-8")
    open_tab(page)

    page.click("#atelier_type_path")
    page.fill("#atelier_folder", str(tmp_path))
    page.click("#atelier_open_folder")
    page.wait_for_function("document.querySelector('#atelier_thumbnails').textContent.includes('<script>')")
    page.click(".atelier-tile-open")
    page.wait_for_selector("dialog[open]")

    assert name in page.inner_text("dialog")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src='x']").count() == 0


def test_a_folder_that_is_not_there_is_a_sentence(page):
    open_tab(page)

    page.click("#atelier_type_path")
    page.fill("#atelier_folder", "/no/such/folder")
    page.click("#atelier_open_folder")

    page.wait_for_selector(".atelier-error")
    assert "/no/such/folder" in page.inner_text(".atelier-error")


def test_the_page_speaks_japanese_when_it_is_asked_to(page):
    open_tab(page)

    page.get_by_role("button", name="日本語").last.click()

    page.wait_for_selector("text=誰の画像ですか？")
    assert page.inner_text("#atelier_train") == "学習する"
    page.get_by_role("tab", name="txt2img").click()
    page.wait_for_selector("text=ネガティブプロンプト")
    page.reload()
    page.wait_for_selector("text=ネガティブプロンプト")  # remembered


def test_an_unknown_lora_names_the_nearest_and_the_picture_is_made(page, server):
    loras = server.data_dir / "loras"
    loras.mkdir(exist_ok=True)
    (loras / "momotaro.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")

    page.fill("#atelier_prompt textarea", "a red circle <lora:momotarou:0.8>")
    page.fill("#atelier_steps input[type=number]", "2")
    page.click("#atelier_generate")

    page.wait_for_selector(".atelier-comment")
    assert "momotarou" in page.inner_text("#atelier_comments")
    assert "<lora:momotaro:" in page.inner_text("#atelier_comments")
    page.wait_for_selector("#atelier_gallery img")
    (loras / "momotaro.safetensors").unlink()


def test_a_generated_picture_carries_what_a1111_reads(page, server):
    page.fill("#atelier_prompt textarea", "a red circle, blue background")
    page.fill("#atelier_steps input[type=number]", "2")
    page.click("#atelier_generate")
    page.wait_for_function("document.querySelector('#atelier_infotext textarea').value.includes('Steps: 2')")

    newest = max((server.data_dir / "outputs").rglob("*.png"), key=lambda path: path.stat().st_mtime_ns)
    with Image.open(newest) as picture:
        text = picture.info["parameters"]
    assert text.startswith("a red circle, blue background\n") and "Sampler: DDIM" in text and "Size: 128x128" in text
    shown = page.get_attribute("#atelier_gallery img", "src")
    with Image.open(io.BytesIO(page.request.get(shown).body())) as served:
        assert served.info["parameters"] == text


def test_a_card_writes_its_tag_at_the_cursor(page, server):
    loras = server.data_dir / "loras"
    loras.mkdir(exist_ok=True)
    (loras / "もも.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    (loras / "もも.json").write_text('{"activation text": "momo figure"}', encoding="utf-8")
    page.fill("#atelier_prompt textarea", "a red circle")

    page.click("#atelier_refresh")
    page.click(".atelier-lora")

    said = page.input_value("#atelier_prompt textarea")
    (loras / "もも.safetensors").unlink()
    assert said.startswith("a red circle") and "momo figure" in said and "<lora:もも:" in said


def test_answers_and_pictures_survive_a_reload(page, pictures):
    open_tab(page)
    answer(page, name="kept", trigger="kept word", whose="permission")
    page.set_input_files("#atelier_files", pictures)
    page.wait_for_function("document.querySelector('#atelier_plan').textContent.includes('3 pictures')")

    page.reload()
    open_tab(page)

    page.wait_for_function("document.querySelectorAll('.atelier-tile').length === 3")
    assert page.input_value("#atelier_name") == "kept" and page.input_value("#atelier_trigger") == "kept word"
    assert page.input_value("#atelier_whose") == "permission"


@pytest.fixture
def stopped_run(server):
    run = RunDir(server.data_dir / "runs" / "20260101-000000-abcd-teapot")
    run.path.mkdir(parents=True)
    words = {
        "id": run.id,
        "name": "teapot",
        "goal": "object",
        "trigger": "teapot",
        "whose": "mine",
        "created": time.time(),
    }
    Job(**words, lora_dir=str(server.data_dir / "loras"), base_model="", pictures="").write(run.job_path)
    log = Appender(run.events_path)
    log.add(Started(steps=100))
    for step in (20, 40):
        log.add(
            Stepped(step=step, steps=100, loss=1 / step, learning_rate=1e-4, seconds_per_step=0.1, seconds_left=6.0)
        )
    log.add(Stopped(step=40))
    yield run
    shutil.rmtree(run.path)


def test_a_training_is_found_in_the_list_and_shown_in_the_language_that_is_chosen(page, stopped_run):
    open_tab(page, "queue")

    page.get_by_role("button", name="teapot").click()
    page.wait_for_selector("#atelier_resume")
    assert "Stopped at step 40 of 100" in page.inner_text("#atelier_run")
    assert page.locator("#atelier_run .atelier-chart").is_visible()
    page.get_by_role("button", name="日本語").click()
    page.wait_for_selector("#atelier_resume:has-text('再開')")
    page.reload()
    page.get_by_role("tab", name="LoRA Atelier").click()
    page.wait_for_selector("#atelier_resume")  # where it was


def test_the_same_file_can_be_chosen_again_and_old_complaints_go(page, pictures, tmp_path):
    note = tmp_path / "note.md"
    note.write_text("no picture", encoding="utf-8")
    open_tab(page)
    page.set_input_files("#atelier_files", [pictures[0], note])
    page.wait_for_selector("text=note.md")
    page.hover(".atelier-tile")
    page.click(".atelier-remove")
    page.wait_for_function("document.querySelectorAll('.atelier-tile').length === 0")

    page.set_input_files("#atelier_files", [pictures[0]])

    page.wait_for_function("document.querySelectorAll('.atelier-tile').length === 1")
    assert "note.md" not in page.inner_text(".atelier-status")
    assert page.input_value("#atelier_files") == ""  # a browser reports no change when the same file is chosen twice


def test_the_trigger_that_is_suggested_follows_the_name(page):
    open_tab(page)

    page.fill("#atelier_name", "Tea_Pott")

    page.wait_for_function("document.querySelector('#atelier_trigger').placeholder === 'tea pott'")
    page.check('input[name="atelier_goal"][value="style"]')
    page.wait_for_function("document.querySelector('#atelier_trigger').placeholder === 'tea pott style'")


def test_a_dark_page_is_dark_everywhere_and_its_words_can_be_read(browser, server):
    """Hosts give bare elements colours of their own; ours must win on our elements."""
    script = """() => [...document.querySelectorAll('.atelier-main .atelier-card, .atelier-input, #atelier_train')].map(
        element => { const style = getComputedStyle(element); return [style.backgroundColor, style.color] })"""
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, locale="en-US")
        context.set_default_timeout(90_000)
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_selector("#atelier_prompt textarea")
        open_tab(page)
        found = page.evaluate(script)
        context.close()

        for ground, ink in found:
            assert contrast(ground, ink) >= 4.5, (scheme, ground, ink)
        assert (luminance(found[0][0]) < 0.1) == (scheme == "dark")


def luminance(colour):
    """Relative luminance of a CSS ``rgb(…)``, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_nothing_is_asked_of_another_server(browser, server):
    context = browser.new_context()
    context.set_default_timeout(90_000)
    asked = []
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    page.wait_for_selector("#atelier_prompt textarea")
    page.get_by_role("tab", name="LoRA Atelier").click()
    page.wait_for_selector("#atelier_train")
    context.close()

    foreign = [url for url in asked if not url.startswith((server.url, "data:", "blob:"))]
    assert foreign == []
