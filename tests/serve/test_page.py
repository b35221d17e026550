"""The page in a headless Chromium, with the shipped model behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from scope_cpp.engine.settings import Settings
from scope_cpp.reference.shipped import model_path
from scope_cpp.reference.task import ReferenceSample, make_samples
from tests.serve.browser import Page, find_browser

pytest.importorskip("uvicorn", reason="scope serve needs the extra serve")

from tests.serve.raw import until_idle  # noqa: E402
from tests.serve.service import Running, running  # noqa: E402

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

BUDGET = 192
DONE = "!document.querySelector('#messages [aria-busy]') && document.querySelector('#stop').hidden"
LAST = "document.querySelector('#messages li:last-child .text').textContent"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    # in so few cells the default gets half of the sheet's answers right
    settings = Settings("scope-foresight", budget=BUDGET, n_threads=1, n_threads_batch=1)
    with running(model_path(), settings, {}, "reference", n_parallel=2) as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert BROWSER is not None
    with Page(BROWSER, tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(browser: Page, server: Running) -> Page:
    """A fresh page, greedy."""
    browser.resize(1280, 800)
    browser.open(server.url + "/")
    browser.value("sessionStorage.clear()")
    browser.value("sessionStorage.setItem('settings', JSON.stringify({temperature: '0'}))")
    browser.open(server.url + "/")
    browser.until("document.querySelector('#model').textContent !== 'connecting …'")
    browser.faults.clear()
    browser.requests.clear()
    return browser


def sheet(n_questions: int = 14) -> ReferenceSample:
    return make_samples("hubs", 1, 1, n_questions, 20, 4)[0]


def question(sample: ReferenceSample) -> str:
    return " ".join(sample.prompt.removesuffix("Answers:\n").split())


def say(page: Page, text: str) -> None:
    page.value("document.querySelector('#message').focus()")
    page.type(text)
    page.enter()


def number(page: Page, selector: str) -> int:
    told = page.value(f"document.querySelector('{selector}').textContent")
    return int(told.replace(",", ""))


def test_an_answer_and_the_picture_of_its_cache(page: Page, server: Running) -> None:
    sample = sheet()
    assert page.value("document.querySelector('#map').checkVisibility()") is False
    say(page, question(sample))
    page.until("document.querySelector('#map .prompt').getAttribute('d')")
    page.until(DONE)
    assert page.value(LAST).strip() == sample.expected.strip()
    assert page.value("document.querySelectorAll('#messages li').length") == 2

    evicted = number(page, "#n-evicted")
    pools = [number(page, f"#n-{name}") for name in ("prompt", "history", "recent")]
    assert evicted > 0 and all(pools) and sum(pools) <= BUDGET + 1  # of rounding
    drawn = page.value("[...document.querySelectorAll('#map path')].map(p => p.getAttribute('d'))")
    assert all(drawn), "every pool and what is evicted is drawn"
    assert f"of {BUDGET} cells" in page.value("document.querySelector('#summary').textContent")
    widths = page.value("[...document.querySelectorAll('#gauge span')].map(s => s.offsetWidth)")
    whole = page.value("document.querySelector('#gauge').offsetWidth")
    for width, cells in zip(widths, pools, strict=True):
        assert width == pytest.approx(whole * cells / BUDGET, abs=3)

    assert page.faults == []
    assert {url for url in page.requests if not url.startswith(server.url + "/")} == set()


def test_the_picture_counts_the_last_tokens_too(page: Page) -> None:
    """A picture comes with some tokens only, the counts come with all."""
    say(page, question(sheet(1)))
    page.until(DONE)
    pools = [number(page, f"#n-{name}") for name in ("prompt", "history", "recent")]
    assert number(page, "#n-evicted") == 0
    assert sum(pools) == number(page, "#n-used") == number(page, "#n-past")


def test_a_conversation_survives_a_reload_and_can_be_forgotten(page: Page, server: Running) -> None:
    sample = sheet(2)
    say(page, question(sample))
    page.until(DONE)
    page.open(server.url + "/")
    assert page.value(LAST).strip() == sample.expected.strip()
    page.value("document.querySelector('#new').click()")
    assert page.value("document.querySelectorAll('#messages li').length") == 0
    page.open(server.url + "/")
    assert page.value("document.querySelectorAll('#messages li').length") == 0


def test_escape_stops_an_answer_and_frees_its_cells(page: Page, server: Running) -> None:
    sample = sheet(20)
    say(page, question(sample))
    page.until(f"{LAST}.length > 20")
    page.press("Escape", 27)
    page.until(DONE)
    text = page.value(LAST)
    assert 20 < len(text) < len(sample.expected) and sample.expected.startswith(text)
    assert "stopped" in page.value("document.querySelector('#messages li:last-child').textContent")
    until_idle(server)
    assert page.faults == []


def test_text_stays_text(page: Page) -> None:
    hostile = (
        "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
    )
    say(page, hostile)
    page.until(DONE)
    shown = page.value("document.querySelector('#messages .user .text').textContent")
    assert shown == hostile
    assert page.value("document.querySelectorAll('#messages img, #messages script').length") == 0
    assert page.value("document.title") == "scope-cpp"


def test_facts_first_and_questions_then(page: Page) -> None:
    """An empty answer is an answer."""
    say(page, "Facts: ab=3 cd=4")
    page.until(DONE)
    foot = page.value("document.querySelector('#messages li:last-child .foot').textContent")
    assert (
        "an empty answer: the first token, '</s>', ended the output" in foot
        and page.value(LAST) == ""
    )
    say(page, "Questions: Q1 ab cd")
    page.until("document.querySelectorAll('#messages li').length == 4")
    page.until(DONE)
    assert page.value(LAST).strip() == "Q1 ab cd: ab=3, cd=4;3+4=7. A1=7"


def test_an_error_in_words(page: Page) -> None:
    page.value("document.querySelector('#open-settings').click()")
    page.value("document.querySelector('[name=budget]').value = 'plenty'")
    page.value("document.querySelector('[value=keep]').click()")
    say(page, "Facts: ab=3 Questions: Q1 ab ab")
    page.until("!document.querySelector('#error').hidden")
    assert "plenty" in page.value("document.querySelector('#error').textContent")
    assert page.value("document.querySelectorAll('#messages li').length") == 0
    kept = page.value("document.querySelector('#message').value")
    assert kept == "Facts: ab=3 Questions: Q1 ab ab", "what got no answer can be sent again"
    assert all("400" in fault for fault in page.faults)


def test_settings_hold_from_the_next_message_on(page: Page) -> None:
    values = {"policy": "streaming-llm", "budget": "160", "max_tokens": "90", "seed": "7"}
    page.value("document.querySelector('#open-settings').click()")
    listed = page.value("[...document.querySelectorAll('#policies option')].map(o => o.value)")
    assert "streaming-llm" in listed
    for field, value in values.items():
        page.value(f"document.querySelector('[name={field}]').value = '{value}'")
    page.value("document.querySelector('[value=keep]').click()")
    say(page, question(sheet()))
    page.until(DONE)
    assert "of 160 cells" in page.value("document.querySelector('#summary').textContent")
    told = page.value("document.querySelector('#messages li:last-child .foot').textContent")
    assert "90 tokens" in told and "longest answer reached" in told
    page.value("document.querySelector('#open-settings').click()")
    shown = {name: page.value(f"document.querySelector('[name={name}]').value") for name in values}
    assert shown == values


def test_a_conversation_goes_on_in_few_cells(page: Page, server: Running) -> None:
    """Many times as many tokens as cells; before, the second or third message was refused."""
    chosen = "{temperature: '0', policy: 'scope-retrieval', budget: '128', max_tokens: '40'}"
    page.value(f"sessionStorage.setItem('settings', JSON.stringify({chosen}))")
    page.open(server.url + "/")
    page.until("document.querySelector('#model').textContent === 'reference'")
    for n in range(1, 9):
        say(page, question(sheet(2)))
        page.until(f"document.querySelectorAll('#messages li').length === {2 * n} && {DONE}")
        assert page.value("document.querySelector('#error').hidden")
    assert number(page, "#n-past") > 3 * 128 and number(page, "#n-used") <= 128
    assert page.faults == []


def test_by_keyboard_alone(page: Page) -> None:
    page.type("Facts: ab=3 cd=4")
    page.enter(shift=True)
    page.type("Questions: Q1 ab cd")
    assert page.value("document.querySelectorAll('#messages li').length") == 0
    page.press("Tab", 9)
    assert page.value("document.activeElement.id") == "send"
    page.enter()
    page.until(DONE)
    assert "A1=7" in page.value(LAST)
    reached = set()
    for _ in range(20):
        page.press("Tab", 9)
        reached.add(page.value("document.activeElement.id || document.activeElement.textContent"))
    assert {"new", "open-settings", "theme", "Copy", "Answer again", "message"} <= reached


@pytest.mark.parametrize("size", [(1280, 800), (400, 800), (320, 640)], ids=str)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_the_window(page: Page, size: tuple[int, int], dark: bool) -> None:
    page.value(f"sessionStorage.setItem('messages', '{json.dumps(LONG)}')")
    page.resize(*size, dark=dark)
    page.call("Page.reload")
    page.until("document.querySelectorAll('#messages li').length === 2")
    width, height = size
    assert page.value("document.documentElement.scrollWidth") <= width
    for name in ("message", "send", "open-settings", "theme", "scroller"):
        box = page.value(f"document.getElementById('{name}').getBoundingClientRect().toJSON()")
        assert box["left"] >= 0 and box["right"] <= width and box["bottom"] <= height, name
        assert box["height"] >= (100 if name == "scroller" else 24), name
    page.until(f"document.documentElement.dataset.theme === '{'dark' if dark else 'light'}'")
    for selector in ("#model", ".assistant .text", ".user .text", "#send", "#summary", ".hint"):
        assert contrast(page, selector) >= 4.5, f"{selector} can't be read"


LONG: list[dict[str, Any]] = [
    {"role": "user", "content": "x" * 400},
    {"role": "assistant", "content": "word " * 800},
]

CONTRAST = """(() => {
  const of = (element) => {
    const context = document.createElement('canvas').getContext('2d');
    const paint = (colour) => {
      context.clearRect(0, 0, 1, 1);
      context.fillStyle = colour;
      context.fillRect(0, 0, 1, 1);
      return context.getImageData(0, 0, 1, 1).data;
    };
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    let under = element;
    while (paint(getComputedStyle(under).backgroundColor)[3] === 0) under = under.parentElement;
    const a = light(paint(getComputedStyle(element).color));
    const b = light(paint(getComputedStyle(under).backgroundColor));
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  return of(document.querySelector('%s'));
})()"""


def contrast(page: Page, selector: str) -> float:
    """Ratio of text and ground by WCAG 2's formula."""
    return float(page.value(CONTRAST % selector))


def test_a_key_is_asked_for(browser: Page) -> None:
    with running(model_path(), name="reference", api_keys=("a secret",)) as server:
        browser.resize(1280, 800)
        browser.open(server.url + "/")
        browser.until("document.querySelector('#settings').open")
        assert "API key" in browser.value("document.querySelector('#error').textContent")
        browser.value("document.querySelector('[name=key]').value = 'a secret'")
        browser.value("document.querySelector('[value=keep]').click()")
        browser.until("document.querySelector('#model').textContent.includes('reference')")
        say(browser, question(sheet(1)))
        browser.until(DONE)
        assert "A1=" in browser.value(LAST)
        stored = browser.value("JSON.stringify(sessionStorage) + JSON.stringify(localStorage)")
        assert "a secret" not in stored
