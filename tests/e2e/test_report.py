"""`report` as a user runs it, and its page as a real browser shows it, without a network."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from orchestrator.report.collect import collect
from orchestrator.report.pictures import PictureBook
from orchestrator.report.render import render
from tests.chromium import Page, open_browser
from tests.e2e.command import Cloudbooth
from tests.unit.recorded_run import PROMPTS, RecordedRun

SLIDER = "document.querySelectorAll('figure.samples input')[0]"
SHOWN = "[...document.querySelectorAll('figure.samples')].map(f => f.querySelector('li.on').dataset.step).join()"


@pytest.fixture
def recorded(cloudbooth: Cloudbooth) -> RecordedRun:
    run = RecordedRun(cloudbooth.root / "state")
    run.begin()
    return run


def test_follow_writes_the_page_until_the_run_has_ended(cloudbooth: Cloudbooth, recorded: RecordedRun) -> None:
    with cloudbooth.started("report", "dog", "--follow", "--out", "page.html") as child:
        assert child.stdout is not None
        file = Path(child.stdout.readline().strip())
        assert "data-reload-s" in file.read_text()
        recorded.interrupt()
        recorded.finish()
        assert child.wait(30) == 0
    assert "data-reload-s" not in file.read_text()
    assert "400 of 400 steps" in file.read_text()


@pytest.mark.usefixtures("recorded")
def test_a_page_that_is_no_longer_written_stops_reloading(cloudbooth: Cloudbooth) -> None:
    with cloudbooth.started("report", "dog", "--follow") as child:
        assert child.stdout is not None
        file = Path(child.stdout.readline().strip())
        assert file.name == "dog-report.html"
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130
    assert "data-reload-s" not in file.read_text()


def test_json_is_one_object_with_what_the_page_tells(cloudbooth: Cloudbooth, recorded: RecordedRun) -> None:
    recorded.interrupt()
    recorded.finish()
    done = cloudbooth.run("report", "dog", "--json")
    [line] = done.stdout.splitlines()
    told = json.loads(line)
    assert (told["type"], told["reason"], told["step"]) == ("summary", "done", 400)
    assert [machine["gpu"] for machine in told["machines"]] == ["RTX 3090", "RTX 4090"]


@pytest.mark.usefixtures("recorded")
def test_a_file_that_cannot_be_written_is_an_error_with_a_hint(cloudbooth: Cloudbooth) -> None:
    done = cloudbooth.run("report", "dog", "--out", "no-such-folder/page.html", check=2)
    assert "cannot be written" in done.stderr
    assert "hint: name another file with `--out`" in done.stderr


def test_a_browser_shows_the_page_in_every_size_and_theme(recorded: RecordedRun, tmp_path: Path) -> None:
    recorded.interrupt()
    recorded.finish()
    report = collect(recorded.ledger, recorded.run_home, "dog", recorded.clock.now())
    file = tmp_path / "page.html"
    file.write_text(render(report, PictureBook().inline(report)), "utf-8")
    with open_browser(tmp_path / "profile") as page:
        pictures = {}
        for name, width, scheme in (("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 360, "light")):
            page.show_as(width, scheme=scheme, mobile=name == "phone")
            page.open(file)
            pictures[name] = page.screenshot(tmp_path / f"{name}.png")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} scrolls sideways"
            assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
            assert page.evaluate(_LOW_CONTRAST) == [], name
        assert len(set(pictures.values())) == 3
        assert page.evaluate("document.title") == "dog: done · cloudbooth", "the script in the prompt has not run"
        _sliders_work_without_a_mouse(page)
        assert page.complaints == []
        assert {url for url in page.asked_for if not url.startswith("data:")} == {file.as_uri()}


def _sliders_work_without_a_mouse(page: Page) -> None:
    assert page.evaluate(SHOWN) == "400,400"
    page.evaluate(f"{SLIDER}.focus()")
    page.press("ArrowLeft")
    assert page.evaluate(SHOWN) == "200,400"
    page.press("Home")
    assert page.evaluate(SHOWN) == "0,400"
    assert page.evaluate(f"{SLIDER}.getAttribute('aria-valuetext')") == "step 0"
    names = [node["name"]["value"] for node in _nodes(page) if node["role"]["value"] == "slider"]
    assert f"Step of the picture for “{PROMPTS[1]}”" in names
    page.evaluate("document.querySelector('figure.chart input').focus()")
    page.press("Home")
    assert page.evaluate("document.querySelector('figure.chart output').textContent") == "step 0, fixed set 0.1510"
    assert page.evaluate("document.querySelector('figure.chart .cursor').getAttribute('visibility')") == "visible"


def _nodes(page: Page) -> list[dict[str, dict[str, str]]]:
    nodes: list[dict[str, dict[str, str]]] = page.call("Accessibility.getFullAXTree")["nodes"]
    return nodes


_LOW_CONTRAST = """
(() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = numbers(color).map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((numbers(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const low = [];
  for (const element of document.body.querySelectorAll("*")) {
    const says = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!says || element.closest("script")) continue;
    const style = getComputedStyle(element), color = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(color), light(behind(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(element.outerHTML.slice(0, 80));
  }
  return low;
})()
"""
"""Texts whose contrast is below 4.5 : 1, which WCAG 2.2 asks for (success criterion 1.4.3, level AA)."""
