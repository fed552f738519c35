from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.report.collect import collect
from orchestrator.report.contents import Report, Sample, SampleSeries
from orchestrator.report.pictures import MAX_SAMPLES, PictureBook, encoded, shown_samples
from orchestrator.report.render import headline, render
from tests.unit.recorded_run import PROMPTS, RecordedRun


class Outline(HTMLParser):
    """What a page is made of, and that every element is closed by its own end tag."""

    VOID = frozenset({"meta", "img", "input", "link", "br", "hr"})
    SVG_VOID = frozenset({"rect", "line", "polyline", "circle", "path"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def recorded(tmp_path: Path) -> RecordedRun:
    return RecordedRun(tmp_path)


def page_of(recorded: RecordedRun, reload_s: float | None = None) -> str:
    report = collect(recorded.ledger, recorded.run_home, recorded.name, recorded.clock.now())
    return render(report, PictureBook().inline(report), reload_s)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """Nothing changes it: writing it takes a second on a busy disk."""
    recorded = RecordedRun(tmp_path_factory.mktemp("finished"))
    recorded.begin()
    recorded.interrupt()
    recorded.finish()
    return recorded


def test_foreign_text_is_text_and_never_markup(finished: RecordedRun) -> None:
    page = page_of(finished)
    outline = Outline(page)
    assert len(outline.all("script")) == 1
    assert outline.all("b") == []
    assert "&lt;script&gt;document.title=&#39;broken&#39;" in page
    assert "a dog &amp; a &lt;b&gt;ball&lt;/b&gt;" in page


def test_nothing_is_loaded_from_anywhere(finished: RecordedRun) -> None:
    outline = Outline(page_of(finished))
    assert all(str(image["src"]).startswith("data:image/") for image in outline.all("img"))
    assert outline.all("link") == []
    assert "src" not in outline.all("script")[0]
    assert all(str(link["href"]).startswith("#") for link in outline.all("a"))
    assert "default-src 'none'" in str(outline.all("meta")[1]["content"])


def test_every_picture_has_a_text_and_every_slider_a_name(finished: RecordedRun) -> None:
    outline = Outline(page_of(finished))
    assert all(image["alt"] for image in outline.all("img"))
    sliders = [field for field in outline.all("input") if field["type"] == "range"]
    assert len(sliders) == len(PROMPTS) + 2
    assert all(slider["aria-label"] for slider in sliders)


def test_headings_form_an_outline(finished: RecordedRun) -> None:
    levels = [int(name[1]) for name, _ in Outline(page_of(finished)).elements if re.fullmatch(r"h[1-6]", name)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_links_within_the_page_lead_somewhere(finished: RecordedRun) -> None:
    outline = Outline(page_of(finished))
    ids = {attributes["id"] for _, attributes in outline.elements if "id" in attributes}
    assert {str(link["href"])[1:] for link in outline.all("a")} <= ids


def test_a_lasting_run_reloads_itself_and_an_ended_one_does_not(recorded: RecordedRun) -> None:
    recorded.begin()
    assert 'data-reload-s="5"' in page_of(recorded, 5.0)
    assert "data-reload-s" not in page_of(recorded)
    assert "cloudbooth report dog --follow" in page_of(recorded)


def test_a_run_without_events_or_machines_has_a_page(recorded: RecordedRun) -> None:
    assert "nothing was spent" in page_of(recorded)


def test_equal_reports_give_equal_pages(finished: RecordedRun) -> None:
    assert page_of(finished) == page_of(finished)


def test_the_headline_says_how_far_how_long_and_how_much(finished: RecordedRun) -> None:
    report = collect(finished.ledger, finished.run_home, "dog", finished.clock.now())
    assert headline(report) == "400 of 400 steps in 43 min, cost $0.25."


def test_a_picture_s_metadata_stays_behind(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    Image.new("RGB", (300, 300), "teal").save(tmp_path / "a.jpg", exif=exif, comment=b"secret", dpi=(300, 300))
    assert b"taken at home" in (tmp_path / "a.jpg").read_bytes()
    picture = encoded(tmp_path / "a.jpg", 192)
    assert picture is not None
    raw = base64.b64decode(picture.uri.partition(",")[2])
    with Image.open(io.BytesIO(raw)) as inlined:
        assert dict(inlined.getexif()) == {}
        assert "comment" not in inlined.info
        assert inlined.size == (picture.width, picture.height) == (192, 192)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n cut", b"<svg onload='alert(1)'/>"])
def test_what_is_no_picture_is_left_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert encoded(tmp_path / "a.png", 192) is None


def test_of_many_pictures_the_first_and_the_last_are_shown(finished: RecordedRun) -> None:
    report = collect(finished.ledger, finished.run_home, "dog", finished.clock.now())
    many = tuple(SampleSeries(str(p), tuple(Sample(step, "x") for step in range(100))) for p in range(4))
    shown = shown_samples(dataclasses.replace(report, samples=many))
    assert sum(len(series.samples) for series in shown) <= MAX_SAMPLES
    assert all((s.samples[0].step, s.samples[-1].step) == (0, 99) for s in shown)


def test_a_picture_is_encoded_once_while_its_file_stays(finished: RecordedRun) -> None:
    report: Report = collect(finished.ledger, finished.run_home, "dog", finished.clock.now())
    book = PictureBook()
    first, again = book.inline(report), book.inline(report)
    assert all(first[path] is again[path] for path in first)
