"""How the tab looks: nothing jumps while it is live, nothing sticks out of a narrow page, a focus can be seen."""

import time

import pytest
from PIL import Image
from tests.e2e.conftest import open_tab

from lora_atelier.errors import message
from lora_atelier.events import Appender, Best, Preparing, Sampled, Stepped, Validated, Warned
from lora_atelier.locking import FileLock

pytestmark = pytest.mark.browser

# As Chromium counts it: what moved by itself, in shares of the window, in the worst five seconds.
SHIFTS = """
window.shifts = [];
new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push([entry.startTime, entry.value,
        entry.sources.map((s) => s.node && (s.node.id || s.node.className || s.node.nodeName)).join(" ")]);
}).observe({ type: "layout-shift", buffered: true });
"""
WORST = """() => Math.max(0, ...window.shifts.map(([at]) =>
    window.shifts.filter(([t]) => t >= at && t < at + 5000).reduce((sum, [, value]) => sum + value, 0)))"""
GOOD = 0.1
THERE = {"new": "#atelier_train", "expert": ".atelier-setting", "queue": "[data-run]"}
LONG = "とても長い名前の" * 4 + "-a_name_without_any_place_to_break"


def step(at):
    return Stepped(step=at, steps=100, loss=1 / at, learning_rate=1e-4, seconds_per_step=0.1, seconds_left=4.0)


@pytest.fixture
def live(recorded):
    """A run that goes on as long as its lock is held, and what it says."""
    run = recorded("live", Preparing(stage="model"))
    run.samples_dir.mkdir()
    for at in (0, 5, 10):
        Image.new("RGB", (128, 128), "red").save(run.samples_dir / f"{at}.png")
    lock = FileLock(run.lock_path)
    assert lock.acquire()
    yield Appender(run.events_path)
    lock.release()


def test_nothing_jumps_while_a_training_is_followed(browser, webui, live):
    for page in open_tab(browser, webui):
        page.click("#atelier_page_queue")
        page.get_by_role("button", name="live", exact=True).first.click()
        page.wait_for_selector("#atelier_progress:has-text('Loading')")
        page.evaluate(SHIFTS)
        page.wait_for_timeout(600)  # what a click moves does not count, for half a second

        live.add(Sampled(step=0, file="0.png", prompt="x", seed=1))
        for at in range(1, 11):
            live.add(step(at))
            if at % 5 == 0:
                live.add(Validated(step=at, loss=1 / at))
                live.add(Best(step=at, loss=1 / at, file="x.safetensors"))
                live.add(Sampled(step=at, file=f"{at}.png", prompt="x", seed=1))
                live.add(Warned(message=message("Steps became slow.").to_json()))
            page.wait_for_selector(f"#atelier_progress:has-text('Step {at} of 100')")
        page.wait_for_function("document.querySelectorAll('#atelier_samples img').length === 3")

        assert page.evaluate(WORST) < GOOD, page.evaluate("window.shifts")


def test_nothing_jumps_while_five_hundred_pictures_are_looked_into(browser, webui, tmp_path):
    for at in range(500):
        Image.new("RGB", (64, 64), (at % 256, at // 2, 90)).save(tmp_path / f"{at:03}.png")
    for page in open_tab(browser, webui):
        page.click("#atelier_page_new")
        page.click("#atelier_type_path")
        page.fill("#atelier_folder", str(tmp_path))
        page.click("#atelier_open_folder")
        page.wait_for_selector(".atelier-tile img")
        page.evaluate(SHIFTS)

        page.wait_for_timeout(4000)

        assert page.locator(".atelier-tile").count() <= 120
        assert page.evaluate(WORST) < GOOD, page.evaluate("window.shifts")


@pytest.mark.parametrize("locale", ["en-US", "ja-JP"])
def test_nothing_sticks_out_of_a_narrow_page(browser, webui, recorded, locale):
    recorded(LONG[:60], step(50))
    for page in open_tab(browser, webui, locale=locale, viewport={"width": 400, "height": 800}):
        page.click("#atelier_page_new")
        page.fill("#atelier_name", LONG)
        for place in ("new", "expert", "queue"):
            page.click(f"#atelier_page_{place}")
            page.wait_for_selector(
                {"new": "#atelier_train", "expert": ".atelier-setting", "queue": "[data-run]"}[place]
            )
            assert sticking_out(page) == [], place
        page.locator("[data-run]").first.click()
        page.wait_for_selector("#atelier_resume")
        assert sticking_out(page) == []


def sticking_out(page):
    """What reaches beyond the window and can't be scrolled to within something of its own."""
    return page.evaluate(
        """() => { const scrolls = (e) => { for (let at = e; at; at = at.parentElement)
            if (at !== document.body && ['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(at).overflowX))
                return true; };
        return [...document.querySelectorAll('#atelier_root *')]
            .filter((e) => e.offsetParent && e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e))
            .map((e) => e.outerHTML.slice(0, 120)) }"""
    )


def test_a_focus_can_be_seen_on_every_page(browser, webui, recorded):
    recorded("focus", step(50))
    for page in open_tab(browser, webui):
        for place in ("new", "expert", "queue"):
            page.click(f"#atelier_page_{place}")
            page.wait_for_timeout(500)
            unseen = set()
            page.keyboard.press("Tab")
            for _ in range(25):
                said = page.evaluate(
                    """() => { const e = document.activeElement; if (!e.closest('#atelier_root')) return null;
                    const s = getComputedStyle(e);
                    const lined = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2;
                    return e.matches(':focus-visible') && lined ? '' : e.outerHTML.slice(0, 120) }"""
                )
                if said:
                    unseen.add(said)
                page.keyboard.press("Tab")
            assert unseen == set(), place


def test_what_is_no_word_has_a_name_for_those_who_hear_the_page(browser, webui, recorded):
    recorded("heard", step(50))
    unnamed = """() => [...document.querySelectorAll(
        '#atelier_root :is(button, input, select, textarea, progress, [role=img], summary)')]
        .filter((e) => e.offsetParent && !(e.innerText || '').trim())
        .filter((e) => !e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby') && !e.labels?.length)
        .map((e) => e.outerHTML.slice(0, 160))"""
    for page in open_tab(browser, webui):
        for place in ("new", "expert", "queue"):
            page.click(f"#atelier_page_{place}")
            page.wait_for_timeout(700)
            assert page.evaluate(unnamed) == [], place
        page.get_by_role("button", name="heard", exact=True).first.click()
        page.wait_for_selector("#atelier_resume")
        time.sleep(0.5)
        assert page.evaluate(unnamed) == []
