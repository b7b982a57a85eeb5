"""The page in a real browser, where one is installed: Chromium, and playwright to steer it."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytest.importorskip("playwright", reason="pip install playwright, and a Chromium, to test the page in a browser")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium to test the page in")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, issues, tmp_path):
    issues.save(tmp_path / "labels.html")
    context = browser.new_context(accept_downloads=True, offline=True)
    opened = context.new_page()
    troubles = []
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("console", lambda line: troubles.append(line.text) if line.type in ("error", "warning") else None)
    opened.on("dialog", lambda dialog: dialog.accept())
    opened.on("request", lambda request: troubles.append(request.url) if request.url.startswith("http") else None)
    opened.goto((tmp_path / "labels.html").as_uri())
    yield opened
    context.close()
    assert troubles == []


def rows(page):
    return [int(text) for text in page.locator("tbody th").all_inner_texts()]


def test_rows_are_sorted_filtered_and_searched(page, issues):
    assert rows(page) == issues.ranked["row"].head(12).tolist()
    page.select_option("#sort", "row")
    assert rows(page) == sorted(issues.ranked["row"].head(12))
    page.check("#reverse")
    assert rows(page) == sorted(issues.ranked["row"].head(12), reverse=True)
    page.select_option("#status", "flagged")
    assert rows(page) == [61, 30, 5]
    label = issues.ranked.set_index("row")["label"][5]
    page.select_option("#class", label)
    assert 5 in rows(page)
    assert {issues.ranked.set_index("row")["label"][row] for row in rows(page)} == {label}
    page.fill("#search", "no row has this")
    assert rows(page) == []
    assert page.inner_text("#summary").startswith("0 of 12 listed rows are shown; 0 are marked")


def test_a_rate_that_is_not_known_is_said_in_every_row(page, issues, tmp_path):
    ranked = issues.ranked.assign(false_discovery_rate=float("nan"), flagged=False)
    replace(issues, doubt="networks know little", ranked=ranked).save(tmp_path / "doubted.html")
    page.goto((tmp_path / "doubted.html").as_uri())
    assert page.locator('td[data-name="List rate"]').all_inner_texts() == ["not known"] * 12
    page.select_option("#status", "flagged")
    assert rows(page) == []


def test_marks_by_key_and_button_survive_a_reload_and_are_exported(page, issues, tmp_path):
    first, second, third = issues.ranked["row"].head(3).tolist()
    page.focus(f'tr[data-row="{first}"]')
    page.keyboard.press("r")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("d")
    assert page.evaluate("document.activeElement.dataset.row") == str(second)
    page.click(f'tr[data-row="{third}"] button[data-do=keep]')
    assert page.get_attribute(f'tr[data-row="{third}"] button[data-do=keep]', "aria-pressed") == "true"
    assert "of the 3 flagged ones among these 1 kept their label" in page.inner_text("#summary")
    page.reload()
    assert "3 are marked" in page.inner_text("#summary")
    with page.expect_download() as download:
        page.click("#export")
    path = tmp_path / "marks.csv"
    download.value.save_as(path)
    marks = pd.read_csv(path).set_index("row")
    assert marks["mark"].to_dict() == {first: "relabel", second: "drop", third: "keep"}
    ranked = issues.ranked.set_index("row")
    guarded = "'" if ranked["proposed"][first].startswith("=") else ""
    assert marks["new_label"][first] == guarded + ranked["proposed"][first]
    page.focus(f'tr[data-row="{second}"]')
    page.keyboard.press("u")
    assert "2 are marked" in page.inner_text("#summary")
    page.click("#clear")
    assert "0 are marked" in page.inner_text("#summary")


def test_keys_typed_into_the_search_mark_nothing(page):
    page.focus("#search")
    page.keyboard.type("krd")
    assert "0 are marked" in page.inner_text("#summary")


def test_another_class_than_the_proposed_one_can_be_chosen(page, issues):
    first = issues.ranked.iloc[0]
    other = next(name for name in issues.class_names if name not in (first["label"], first["proposed"]))
    page.select_option(f'tr[data-row="{first["row"]}"] select', other)
    stored = page.evaluate("Object.values(JSON.parse(Object.values(localStorage)[0]))")
    assert stored == [{"mark": "relabel", "from": first["label"], "label": other}]


def test_a_chosen_class_stays_whatever_is_typed_after_it(page, issues):
    first = issues.ranked.iloc[0]
    other = next(name for name in issues.class_names if name not in (first["label"], first["proposed"]))
    choice = f'tr[data-row="{first["row"]}"] select'
    page.focus(choice)
    page.select_option(choice, other)
    assert page.evaluate("document.activeElement.tagName") == "SELECT"
    page.focus(f'tr[data-row="{first["row"]}"]')
    page.keyboard.press("r")
    assert page.input_value(choice) == other
    stored = page.evaluate("Object.values(JSON.parse(Object.values(localStorage)[0]))")
    assert [mark["label"] for mark in stored] == [other]


def test_marks_of_rows_that_a_shorter_list_leaves_out_are_exported(page, issues, tmp_path):
    *_, last = issues.ranked["row"].head(12).tolist()
    page.focus(f'tr[data-row="{last}"]')
    page.keyboard.press("d")
    replace(issues, listed=3).save(tmp_path / "labels.html")
    page.reload()
    assert last not in rows(page)
    assert "1 are marked, 1 of them on a longer list of this search" in page.inner_text("#summary")
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(tmp_path / "marks.csv")
    marks = pd.read_csv(tmp_path / "marks.csv")
    assert marks[["row", "mark"]].to_numpy().tolist() == [[last, "drop"]]
    label = issues.ranked.set_index("row")["label"][last]
    assert marks["label"].tolist() == [("'" if label.startswith("=") else "") + label]


def test_everything_has_a_name_for_a_screen_reader_and_nothing_runs_off_a_narrow_page(page):
    for selector in ("button", "select", "input", "img"):
        for one in page.locator(selector).all():
            named = one.evaluate(
                "one => one.getAttribute('aria-label') || one.alt || one.innerText || (one.labels && one.labels.length)"
            )
            assert named, one.evaluate("one => one.outerHTML")
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_of_text_stand_out_from_the_ground(page, scheme):
    page.emulate_media(color_scheme=scheme)
    ground, colours = page.evaluate(
        """() => {
            const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
            const seen = (colour) => {
              probe.fillStyle = colour; probe.fillRect(0, 0, 1, 1); return [...probe.getImageData(0, 0, 1, 1).data];
            };
            const box = document.createElement("div");
            box.style.background = "Canvas"; document.body.append(box);
            const of = (selector) => seen(getComputedStyle(document.querySelector(selector)).color);
            return [seen(getComputedStyle(box).backgroundColor), [of("td"), of(".flag"), of(".proposed")]];
        }"""
    )

    def luminance(colour):
        parts = [part / 255 for part in colour[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in colours:
        low, high = sorted([luminance(ground), luminance(colour)])
        assert (high + 0.05) / (low + 0.05) >= 4.5
