"""The pages in a real browser, against a server that plays the API from a script.

Needs a Chromium: the one ABACI_TEST_BROWSER names, or one on the path. Without any the tests are skipped.
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scripted_api import MARKDOWN, Script, serve

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

BROWSER = os.environ.get("ABACI_TEST_BROWSER") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-component-update", "--disable-sync")
TIMEOUT_MILLISECONDS = 90_000
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 375, "height": 740}


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=BROWSER, args=list(FLAGS), timeout=120_000)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page, the server behind it, and what the page must not do."""

    page: Any
    script: Script
    url: str
    requests: list[str]
    complaints: list[str]

    def say(self, text: str) -> None:
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def await_answer(self) -> Any:
        """The last answer, once it is complete."""
        answer = self.page.locator(".answer.last.complete")
        expect(answer.locator(".speed")).to_be_visible()
        expect(self.page.get_by_role("button", name="Send")).to_be_visible()
        return answer


@pytest.fixture(name="visit")
def _visit(browser: Any, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A fresh browser profile on a fresh server. Fails if the page reached out, or broke the policy, or threw."""
    options = {"viewport": DESKTOP, **getattr(request, "param", {})}
    script = Script()
    with serve(script) as url:
        context = browser.new_context(**options)
        context.set_default_timeout(TIMEOUT_MILLISECONDS)
        page = context.new_page()
        visit = Visit(page, script, url, [], [])
        context.on("request", lambda sent: visit.requests.append(sent.url))
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        page.on("console", lambda said: visit.complaints.append(said.text) if _is_complaint(said) else None)
        page.goto(url)
        expect(page.locator(".model-picker select")).to_have_value("qwen2.5-coder:0.5b")
        yield visit
        context.close()
    strangers = [sent for sent in visit.requests if not sent.startswith((f"{url}/", "data:", f"blob:{url}/"))]
    assert strangers == []
    assert visit.complaints == []


def _is_complaint(said: Any) -> bool:
    """Chromium reports refused requests of its own accord; those belong to the tests that ask for them."""
    return said.type in ("error", "warning") and "Failed to load resource" not in said.text


expect.set_options(timeout=TIMEOUT_MILLISECONDS)


def test_an_answer_streams_in_and_is_shown_as_what_it_is(visit: Visit) -> None:
    visit.say("Please think: how do I test for primes?")
    answer = visit.await_answer()
    expect(answer.get_by_role("heading", name="A prime test")).to_be_visible()
    expect(answer.locator("strong", has_text="prime").first).to_be_visible()
    expect(answer.locator(".hljs-keyword").first).to_have_text("def")
    expect(answer.locator("td")).to_have_text(["7", "yes", "9", "no, 3 × 3"])
    expect(answer.locator(".figures")).to_contain_text("43.2 tokens/s")
    expect(answer.locator(".figures")).to_contain_text("318 tokens")
    expect(visit.page.locator(".context-fill")).to_contain_text("1.5K of 32.8K")
    thought = answer.locator(".thought-text")
    expect(thought).to_be_hidden()
    answer.locator("summary").click()
    expect(thought).to_contain_text("Trial division is simple")
    body = visit.script.bodies[-1]
    assert body["messages"] == [{"role": "user", "content": "Please think: how do I test for primes?"}]
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


def test_code_is_copied_as_it_was_written(visit: Visit) -> None:
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=visit.url)
    visit.say("code")
    answer = visit.await_answer()
    answer.get_by_role("button", name="Copy", exact=True).filter(has_text="Copy").click()
    expect(answer.get_by_text("Copied")).to_be_visible()
    code = re.search(r"```python\n(.*?)\n```", MARKDOWN, re.DOTALL)
    assert code
    assert visit.page.evaluate("navigator.clipboard.readText()") == code.group(1)


def test_what_a_model_writes_is_never_run(visit: Visit) -> None:
    visit.say("hostile")
    answer = visit.await_answer()
    expect(answer).to_contain_text("<script>document.title='broken'</script>")
    assert answer.locator("img, script, [onclick], [onerror], [href^='javascript']").count() == 0
    expect(answer.get_by_role("link", name="pixel")).to_have_attribute("rel", "noopener noreferrer")
    assert visit.page.title() == "hostile · Abaci"


def test_stop_keeps_what_came_and_frees_the_server(visit: Visit) -> None:
    visit.say("slow")
    expect(visit.page.locator(".answer.streaming")).to_contain_text("5 6")
    visit.page.keyboard.press("Escape")
    answer = visit.page.locator(".answer.stopped")
    expect(answer).to_contain_text("Stopped.")
    expect(answer).to_contain_text("5 6")
    expect(visit.page.get_by_role("button", name="Send")).to_be_visible()
    visit.page.wait_for_timeout(200)
    assert visit.script.num_cancelled == 1


def test_a_reload_keeps_the_conversation_and_its_unfinished_answer(visit: Visit) -> None:
    visit.say("first question")
    visit.await_answer()
    visit.say("slow")
    expect(visit.page.locator(".answer.streaming")).to_contain_text("40 41")
    visit.page.reload()
    expect(visit.page.locator(".question .bubble")).to_have_text(["first question", "slow"])
    expect(visit.page.locator(".answer").first).to_contain_text("A prime test")
    expect(visit.page.locator(".answer.stopped")).to_contain_text("10 11")
    expect(visit.page.locator(".entry.current")).to_contain_text("first question")


def test_an_error_is_shown_with_what_to_do_and_may_be_tried_again(visit: Visit) -> None:
    visit.say("please break")
    failure = visit.page.get_by_role("alert")
    expect(failure).to_contain_text("The engine ran out of memory")
    expect(failure).to_contain_text("Wait a moment.")
    expect(visit.page.locator(".answer")).to_contain_text("As far as")
    visit.say("refuse")
    expect(failure.last.locator("p")).to_have_text(
        ["The prompt has 40,000 tokens, the model holds 32,768", "Start a new chat."]
    )
    num_asked = len(visit.script.bodies)
    visit.page.get_by_role("button", name="Try again").last.click()
    expect(failure).to_have_count(2)
    assert len(visit.script.bodies) == num_asked + 1


def test_a_server_that_is_gone_is_an_error_too(visit: Visit) -> None:
    visit.page.route("**/v1/chat/completions", lambda route: route.abort())
    visit.say("anyone?")
    expect(visit.page.get_by_role("alert")).to_contain_text("The server cannot be reached.")


def test_a_key_is_asked_for_once_and_kept(visit: Visit) -> None:
    visit.script.required_key = "sk-secret"
    visit.say("hello")
    dialog = visit.page.get_by_role("dialog")
    expect(dialog).to_contain_text("No API key was sent")
    dialog.get_by_label("API key").fill("sk-wrong")
    visit.page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    dialog.get_by_label("API key").fill("sk-secret")
    dialog.get_by_role("button", name="Use this key").click()
    visit.await_answer()
    visit.page.reload()
    expect(visit.page.locator(".model-picker select")).to_have_value("qwen2.5-coder:0.5b")
    expect(dialog).to_be_hidden()
    expect(visit.page.locator(".bubble")).to_have_text("hello")


def test_a_key_refused_by_the_person_is_an_error(visit: Visit) -> None:
    visit.script.required_key = "sk-secret"
    visit.say("hello")
    expect(visit.page.get_by_role("dialog")).to_be_visible()
    visit.page.keyboard.press("Escape")
    expect(visit.page.get_by_role("dialog")).to_be_hidden()
    expect(visit.page.get_by_role("alert")).to_contain_text("No API key was sent")


def test_editing_and_asking_again_make_branches(visit: Visit) -> None:
    page = visit.page
    visit.say("one")
    visit.await_answer()
    page.get_by_role("button", name="Answer again").click()
    visit.await_answer()
    expect(page.locator(".answer .branches")).to_contain_text("2/2")
    page.get_by_label("Message", exact=True).press("ArrowUp")
    editor = page.get_by_role("textbox", name="Your message")
    expect(editor).to_be_focused()
    editor.fill("two")
    editor.press("Enter")
    visit.await_answer()
    expect(page.locator(".bubble")).to_have_text("two")
    assert visit.script.bodies[-1]["messages"] == [{"role": "user", "content": "two"}]
    page.locator(".question").get_by_role("button", name="Branch before").click()
    expect(page.locator(".bubble")).to_have_text("one")
    expect(page.locator(".answer .branches")).to_contain_text("2/2")
    page.reload()
    expect(page.locator(".bubble")).to_have_text("one")


def test_tool_calls_are_readable_and_may_be_answered(visit: Visit) -> None:
    visit.say("use a tool")
    answer = visit.await_answer()
    expect(answer.locator(".tool-head")).to_contain_text("get_weather")
    expect(answer.locator("dd")).to_have_text(["Oslo", "celsius", "3"])
    answer.get_by_label("What the tool answered").fill("12 degrees")
    answer.get_by_role("button", name="Give the result").click()
    expect(visit.page.get_by_role("heading", name="A prime test")).to_be_visible()
    messages = visit.script.bodies[-1]["messages"]
    assert messages[-1] == {"role": "tool", "content": "12 degrees", "tool_call_id": "call_1"}
    assert messages[-2]["tool_calls"][0]["function"]["arguments"] == '{"city": "Oslo", "unit": "celsius", "days": 3}'


def test_settings_are_sent_and_kept(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_role("spinbutton", name="Temperature").fill("0.3")
    page.get_by_role("spinbutton", name="Seed").fill("7")
    page.get_by_label("Thinking").select_option("off")
    page.reload()
    visit.say("hello")
    visit.await_answer()
    body = visit.script.bodies[-1]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["seed"], body["reasoning_effort"]) == (0.3, 7, "none")
    assert not {"top_p", "top_k", "min_p", "max_tokens", "repetition_penalty", "tools"} & set(body)


def test_text_files_are_sent_as_text_and_others_are_refused(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# Notes\n")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\x00")
    (tmp_path / "long.txt").write_text("x" * 600_000)
    page = visit.page
    names = ("photo.jpg", "long.txt", "notes.md")
    page.locator("input[type=file]").set_input_files([tmp_path / name for name in names])
    expect(page.locator(".composer .chip")).to_contain_text(["notes.md"])
    expect(page.locator(".notice")).to_contain_text("at most 512 KB can be attached")
    visit.say("Summarise.")
    visit.await_answer()
    expect(page.locator(".question .chip")).to_have_text("notes.md")
    assert visit.script.bodies[-1]["messages"][-1]["content"] == "File: notes.md\n```\n# Notes\n```\n\nSummarise."


def test_a_dropped_file_is_attached(visit: Visit) -> None:
    visit.page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["a,b\\n"], "table.csv", { type: "text/csv" }));
            const send = (type) => document.body.dispatchEvent(
                new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
            send("dragover");
            send("drop");
        }"""
    )
    expect(visit.page.locator(".composer .chip")).to_contain_text("table.csv")


def test_conversations_are_found_renamed_exported_and_deleted(visit: Visit) -> None:
    page = visit.page
    visit.say("about pears")
    visit.await_answer()
    page.keyboard.press("Control+k")
    expect(page.get_by_role("heading", name="What shall we work out?")).to_be_visible()
    visit.say("about plums")
    visit.await_answer()
    entries = page.locator(".entry")
    expect(entries).to_have_text(["about plums", "about pears"])
    page.get_by_label("Search conversations").fill("PEARS")
    expect(entries).to_have_text(["about pears"])
    page.get_by_label("Search conversations").fill("")

    page.get_by_role("button", name="More for “about plums”").click()
    page.get_by_role("menuitem", name="Rename").click()
    page.get_by_label("Title").fill("Plums")
    page.get_by_label("Title").press("Enter")
    expect(entries).to_have_text(["Plums", "about pears"])

    page.get_by_role("button", name="More for “Plums”").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name="Export as Markdown").click()
    assert download.value.suggested_filename == "plums.md"
    exported = Path(download.value.path()).read_text()
    assert exported.startswith("# Plums\n\n## You\n\nabout plums\n\n## qwen2.5-coder:0.5b\n\n## A prime test")

    page.get_by_role("button", name="More for “Plums”").click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(entries).to_have_text(["about pears"])
    page.get_by_role("button", name="Undo").click()
    expect(entries).to_have_text(["Plums", "about pears"])
    expect(page.locator(".bubble")).to_have_text("about plums")


def test_all_conversations_survive_a_move_to_another_browser(visit: Visit) -> None:
    page = visit.page
    visit.say("about pears")
    visit.await_answer()
    page.get_by_role("button", name="Settings").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export all").click()
    page.get_by_role("button", name="Delete all conversations").click()
    page.get_by_role("button", name="Really delete all?").click()
    expect(page.locator(".entry")).to_have_count(0)
    page.get_by_label("Import conversations").set_input_files(download.value.path())
    expect(page.locator(".notice")).to_have_text("1 conversation imported.")
    page.locator(".entry").get_by_role("link").click()
    expect(page.locator(".bubble")).to_have_text("about pears")
    expect(page.locator(".answer")).to_contain_text("A prime test")


def test_a_conversation_goes_on_while_another_is_read(visit: Visit) -> None:
    visit.say("slow")
    expect(visit.page.locator(".answer.streaming")).to_contain_text("3 4")
    visit.page.keyboard.press("Control+k")
    visit.say("another")
    visit.await_answer()
    visit.page.locator(".entry", has_text="slow").get_by_role("link").click()
    expect(visit.page.locator(".answer.streaming")).to_contain_text("30 31")
    visit.page.get_by_role("button", name="Stop").click()
    expect(visit.page.locator(".answer.stopped")).to_be_visible()


def test_what_is_deleted_while_it_is_answered_stays_deleted(visit: Visit) -> None:
    page = visit.page
    visit.say("slow")
    expect(page.locator(".answer.streaming")).to_contain_text("3 4")
    page.get_by_role("button", name="More for “slow”").click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(page.locator(".entry")).to_have_count(0)
    left = """() => new Promise((resolve) => {
        indexedDB.open("abaci").onsuccess = ({ target }) => {
            const counting = target.result.transaction("messages").objectStore("messages").count();
            counting.onsuccess = () => resolve(counting.result);
        };
    })"""
    page.wait_for_timeout(1200)  # longer than the page takes between two savings of an answer
    assert page.evaluate(left) == 0
    assert visit.script.num_cancelled == 1


def test_the_keyboard_is_enough(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="Settings").focus()
    page.keyboard.press("/")
    composer = page.get_by_label("Message", exact=True)
    expect(composer).to_be_focused()
    page.keyboard.type("a")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("b")
    expect(composer).to_have_value("a\nb")
    page.keyboard.press("Enter")
    visit.await_answer()
    assert visit.script.bodies[-1]["messages"][-1]["content"] == "a\nb"
    expect(page.locator("[aria-live=polite]")).to_have_text("The answer is complete.")


@pytest.mark.parametrize(
    "visit", [{"viewport": PHONE, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}], indirect=True
)
def test_a_phone_is_wide_enough(visit: Visit) -> None:
    page = visit.page
    page.get_by_label("Message", exact=True).fill("code")
    page.get_by_role("button", name="Send").tap()
    visit.await_answer()
    _assert_fits(page)
    page.get_by_role("button", name="Show conversations").tap()
    expect(page.locator(".entry.current")).to_be_visible()
    page.get_by_role("button", name="New chat").last.tap()
    expect(page.get_by_role("heading", name="What shall we work out?")).to_be_visible()
    expect(page.locator(".sidebar")).to_be_hidden()
    page.get_by_role("button", name="Settings").tap()
    expect(page.get_by_label("System prompt")).to_be_visible()
    _assert_fits(page)
    page.goto(f"{visit.url}/dashboard")
    expect(page.locator(".tile").first).to_be_visible()
    _assert_fits(page)


def _assert_fits(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("visit", [{"color_scheme": "dark"}], indirect=True)
def test_dark_follows_the_system_until_somebody_chooses(visit: Visit) -> None:
    page = visit.page
    dark = _background(page)
    assert max(dark) < 60
    button = page.locator(".theme-button")
    button.click()
    light = _background(page)
    assert min(light) > 200
    page.reload()
    assert _background(page) == light
    button.click()
    assert _background(page) == dark
    page.goto(f"{visit.url}/dashboard")
    assert _background(page) == dark


def _background(page: Any) -> list[int]:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return [int(part) for part in re.findall(r"\d+", colour)[:3]]


def test_a_long_conversation_renders_only_what_changes(visit: Visit) -> None:
    """The blocks of a growing answer that are complete keep their elements, and so do all messages above."""
    visit.say("first")
    visit.await_answer()
    visit.page.evaluate(
        """() => {
            window.changes = [];
            const watcher = new MutationObserver((records) => {
                for (const record of records) window.changes.push(record.target);
            });
            const first = document.querySelector(".answer .markdown");
            watcher.observe(first, { childList: true, subtree: true, characterData: true });
        }"""
    )
    visit.script.token_seconds = 0.02
    visit.say("second")
    heading = visit.page.locator(".answer.last h2")
    expect(heading).to_be_visible()
    expect(visit.page.locator(".answer.last .code")).to_be_visible()
    before = heading.element_handle()
    visit.await_answer()
    assert visit.page.evaluate("window.changes.length") == 0
    assert before.evaluate("(element) => element.isConnected")


def test_the_dashboard_shows_figures(visit: Visit) -> None:
    page = visit.page
    page.goto(f"{visit.url}/dashboard")
    tiles = page.locator(".tile")
    expect(tiles.filter(has_text="Generating")).to_contain_text(re.compile(r"1[12]\d tokens/s"))
    expect(tiles.filter(has_text="Reading prompts")).to_contain_text(re.compile(r"(29|30)\d tokens/s"))
    expect(tiles.filter(has_text="First token, p95")).to_contain_text("750 ms")
    expect(tiles.filter(has_text="Next token, p99")).to_contain_text("90 ms")
    expect(tiles.filter(has_text="Running")).to_contain_text("4 + 2 waiting")
    expect(tiles.filter(has_text="KV cache")).to_contain_text("38 % used")
    expect(tiles.filter(has_text="Prefix cache")).to_contain_text("25 % hits")
    expect(page.locator(".chart")).to_have_count(6)
    expect(page.locator(".chart .line").first).to_be_attached()
    row = page.get_by_role("row").filter(has_text="website")
    expect(row).to_contain_text("41,250,000")
    expect(row).to_contain_text("$3.41")
    expect(page.locator(".machine")).to_contain_text("room for 65,536 tokens")


def test_the_dashboard_asks_for_a_key_once(visit: Visit) -> None:
    page = visit.page
    visit.script.required_key = "sk-secret"
    page.goto(f"{visit.url}/dashboard")
    page.get_by_role("button", name="Not now").click()
    expect(page.locator(".state")).to_have_text("No API key was sent")
    with page.expect_response("**/metrics"):
        pass
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_role("button", name="Give a key").click()
    page.get_by_label("API key").fill("sk-secret")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator(".state")).to_have_text("live")


def test_the_dashboard_says_when_the_server_is_gone_and_comes_back(visit: Visit) -> None:
    page = visit.page
    page.goto(f"{visit.url}/dashboard")
    expect(page.locator(".state")).to_have_text("live")
    page.route("**/metrics", lambda route: route.abort())
    expect(page.locator(".state")).to_contain_text("The server cannot be reached.")
    page.unroute("**/metrics")
    expect(page.locator(".state")).to_have_text("live")
