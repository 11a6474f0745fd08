"""The page in Debian's Chromium, offline: light and dark, phone and desktop."""

import itertools
import re

import numpy as np
import pytest

from counterpoise.data.strips import write_strips
from counterpoise.report import write_report

pytestmark = pytest.mark.browser

SIZES = {"phone": (390, 844), "desktop": (1280, 900)}

# Contrast (WCAG 2.2) of every element that holds text itself, against the nearest background that is not transparent.
CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const rgb = parse(getComputedStyle(node).backgroundColor);
      if (rgb.length < 4 || rgb[3] === 1) return rgb;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || ["SCRIPT", "STYLE", "title"].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    const [a, b] = [light(parse(node.ownerSVGElement ? style.fill : style.color)), light(behind(node))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture(scope="module", params=itertools.product(("light", "dark"), SIZES), ids="-".join)
def page(request, browser, full_report):
    scheme, size = request.param
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("requestfailed", lambda request: page.complaints.append(request.url))
    page.requests = []
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(full_report.as_uri())
    yield page
    context.close()


def test_it_loads_alone_and_without_complaint(page, full_report):
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [full_report.as_uri()]


def test_the_page_does_not_scroll_sideways(page):
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true })")
    wide, inner = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= inner
    outside = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter((node) => !node.closest(".scroll, nav, .skip, svg"))
            .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
            .map((node) => node.outerHTML.slice(0, 80))"""
    )
    assert outside == []


def test_a_table_that_is_wider_than_the_page_says_so_and_starts_with_what_decides(page):
    hints = page.evaluate(
        """() => [...document.querySelectorAll(".scroll")].filter((box) => box.clientWidth).map((box) => [
            box.scrollWidth > box.clientWidth + 1,
            getComputedStyle(box, "::before").content.includes("Scroll sideways")])"""
    )
    assert all(wide == said for wide, said in hints)
    if page.viewport_size["width"] < 400:
        assert sum(wide for wide, _ in hints) >= 2
        column = page.locator("table.measures thead th").nth(1)
        assert column.inner_text().startswith("kNN accuracy")
        for cell in (column, page.locator("table.measures tbody td .verdict").first):
            box = cell.bounding_box()
            assert 0 <= box["x"] <= box["x"] + box["width"] <= 390


def test_text_stands_out(page):
    found = page.evaluate(CONTRAST)
    assert len(found) > 200
    assert [text for contrast, text in found if contrast < 4.5] == []


def test_lines_and_marks_stand_out(page):
    """Graphics need 3:1 against the page (WCAG 1.4.11)."""
    contrasts = page.evaluate(
        """() => {
          const probe = document.createElement("span");
          document.body.append(probe);
          const light = (colour) => {
            probe.style.color = colour;
            const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number)
              .map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const paper = light("var(--paper)");
          const found = [0, 1, 2, 3, 4, 5, 6, 7].map((k) => {
            const colour = light(`var(--s${k})`);
            return (Math.max(colour, paper) + 0.05) / (Math.min(colour, paper) + 0.05);
          });
          probe.remove();
          return found;
        }"""
    )
    assert min(contrasts) >= 3


def test_charts_and_pictures_are_drawn(page):
    expected = {
        ".pareto .mark": 4 + 4,
        ".whisker": 8,
        ".film img": 3 * 4 * 3,
        ".interval": 20,
        ".bar": 12,
        ".line": 16,
        ".wide .mark": 40,
        ".map use": 320,
        ".over": 20,
    }
    for kind, least in expected.items():
        boxes = page.evaluate(
            """(kind) => [...document.querySelectorAll(kind)].map((node) => node.getBoundingClientRect())
                .map((box) => Math.max(box.width, box.height))""",
            kind,
        )
        assert len(boxes) >= least, kind
        assert min(boxes) > 0, kind
    loaded = page.evaluate(
        """async () => {
          const url = getComputedStyle(document.querySelector(".strip .t")).backgroundImage.slice(5, -2);
          const image = new Image();
          image.src = url;
          await image.decode();
          return [image.naturalWidth, image.naturalHeight];
        }"""
    )
    assert loaded == [25 * 28, 4 * 28]


def test_strips_are_as_large_as_they_were_written_and_large_enough_to_see(page):
    sizes = page.evaluate(
        """async () => {
          const found = [...document.querySelectorAll(".film img")];
          await Promise.all(found.map((image) => image.decode()));
          return found.map((image) => [image.naturalWidth, image.naturalHeight, image.width, image.height]);
        }"""
    )
    assert len(sizes) == 36
    assert {(width, height) for width, height, _, _ in sizes} == {(48, 48)}
    assert all(abs(width - height) <= 1 and width >= 64 for _, _, width, height in sizes)


def test_axis_titles_of_a_front_stay_inside_their_chart(page):
    boxes = page.evaluate(
        """() => {
          const chart = document.querySelector("svg.front"), frame = chart.getBoundingClientRect();
          const room = (box) =>
            [box.left - frame.left, frame.right - box.right, box.top - frame.top, frame.bottom - box.bottom];
          return [...chart.querySelectorAll("text")].map((text) => room(text.getBoundingClientRect()));
        }"""
    )
    assert len(boxes) > 8
    assert min(room for box in boxes for room in box) >= -1


def test_a_point_shows_its_class_on_hover(page):
    point = page.locator(".map").first.locator("use").nth(3)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert tip.inner_text() in page.locator("button.class").all_inner_texts()
    shown = tip.bounding_box()
    assert shown["x"] >= 0
    assert shown["x"] + shown["width"] <= page.viewport_size["width"]
    assert page.locator(".ring[visibility=visible]").count() == 4
    page.mouse.move(1, 1)
    assert tip.is_hidden()


def test_a_map_can_be_walked_by_keyboard(page):
    page.locator("#thumbnails").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.classList.contains('map')")
    tip, ring = page.locator("#tip"), page.locator(".map").first.locator(".ring")
    assert tip.is_visible()
    visited = []
    for key in ("ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"):
        start = [float(ring.get_attribute(name)) for name in ("cx", "cy")]
        page.keyboard.press(key)
        visited.append([float(ring.get_attribute(name)) for name in ("cx", "cy")])
        axis, sign = int(key in ("ArrowDown", "ArrowUp")), 1 if key in ("ArrowRight", "ArrowDown") else -1
        assert sign * (visited[-1][axis] - start[axis]) >= 0
    assert len(set(map(tuple, visited))) >= 2
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_one_class_can_be_seen_alone(page):
    button = page.locator("button.class").nth(2)
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator(".map use:not(.dim)").count() == 4 * 8
    assert page.locator(".map use[data-k='2'].dim").count() == 0
    button.click()
    assert page.locator(".dim").count() == 0


def test_thumbnails_can_be_hidden(page):
    page.locator("#thumbnails").uncheck()
    assert page.locator(".over").first.is_hidden()
    page.locator("#thumbnails").check()
    assert page.locator(".over").first.is_visible()


def test_the_command_can_be_copied(page):
    page.locator("#copy").click()
    page.locator("#copy", has_text=re.compile("^(Copied|Selected)$")).wait_for()


def test_long_film_strips_scroll_in_their_box_and_keep_their_titles(browser, fake, tmp_path):
    results = fake.results(methods=("simclr",), seeds=1)
    folder = tmp_path / results["methods"][0]["runs"][0]["folder"]
    folder.mkdir(parents=True)
    frames = np.zeros((2, 12, 3, 20, 30), np.uint8)
    write_strips(folder / "strips.npz", frames, [f"step {k}" for k in range(12)], ["episode 1", "episode 2"])
    context = browser.new_context(viewport={"width": 390, "height": 844}, offline=True)
    page = context.new_page()
    page.goto(write_report(results, tmp_path, tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    box = page.locator(".film .scroll")
    assert "Scroll sideways" in box.evaluate("box => getComputedStyle(box, '::before').content")
    box.evaluate("box => { box.scrollLeft = 300 }")
    title = page.locator(".film tbody th").first.bounding_box()
    assert 0 <= title["x"] < 40
    context.close()


def test_hostile_names_run_nothing(browser, fake, tmp_path):
    hostile = "</script><script>window.hit=1</script><img src=x onerror='window.hit=2'>"
    results = fake.results(methods=("simclr",), seeds=1, classes=(hostile, "b"))
    fake.galleries(results, tmp_path, images=12)
    results["methods"][0]["runs"][0]["warnings"] = [hostile]
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(write_report(results, tmp_path, tmp_path / "report.html").as_uri())
    assert page.evaluate("window.hit") is None
    assert page.locator("#data tbody th").first.inner_text() == hostile
    context.close()
