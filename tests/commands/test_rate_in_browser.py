"""The rating page in a real browser, driven as a person would: keys, mouse, reloads, an export."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from persona_prune.rate.__main__ import main
from tests.rate_runs import asked, choice_of, prompted, write_spoken

DRIVER = shutil.which("chromedriver")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"left": "\ue012", "right": "\ue014", "enter": "\ue007"}
FLAGS = "headless no-sandbox disable-gpu disable-dev-shm-usage no-first-run disable-background-networking disable-sync"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DRIVER and BROWSER), reason="needs chromedriver and Chromium on the PATH"),
]


class Browser:
    """What the WebDriver protocol offers, as far as it is wanted here."""

    def __init__(self, port, downloads, profile):
        self.session = f"http://127.0.0.1:{port}/session"
        flags = [*(f"--{flag}" for flag in FLAGS.split()), f"--user-data-dir={profile}", "--window-size=1200,900"]
        prefs = {"download.default_directory": str(downloads), "download.prompt_for_download": False}
        options = {"binary": BROWSER, "args": flags, "prefs": prefs}
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self.session += "/" + self.call("", {"capabilities": wanted})["sessionId"]

    def call(self, path, content=None, method=None):
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.session + path, body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, path):
        self.call("/url", {"url": Path(path).as_uri()})

    def reload(self):
        self.call("/refresh", {})

    def run(self, script):
        return self.call("/execute/sync", {"script": script, "args": []})

    def find(self, selector):
        return self.call("/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self.call(f"/element/{self.find(selector)}/click", {})

    def text(self, selector):
        return self.call(f"/element/{self.find(selector)}/text")

    def shown(self, selector):
        return self.call(f"/element/{self.find(selector)}/displayed")

    def press(self, *keys):
        steps = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("/actions", {"actions": [{"type": "key", "id": "keys", "actions": steps}]})


@pytest.fixture
def driver_port():
    driver = subprocess.Popen(
        [DRIVER, "--port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"no_proxy": "127.0.0.1"},
    )
    try:
        for line in driver.stdout:
            if started := re.search(r"started successfully on port (\d+)", line):
                yield int(started[1])
                break
        else:
            pytest.fail("chromedriver did not start")
    finally:
        driver.terminate()
        driver.wait(timeout=30)


@pytest.fixture
def browser(driver_port, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = Browser(driver_port, tmp_path / "downloads", tmp_path / "profile")
    yield found
    found.call("", method="DELETE")


@pytest.fixture
def run(tmp_path):
    return write_spoken(tmp_path / "run", [prompted(i) for i in range(10)])


@pytest.fixture
def rating_page(run, tmp_path):
    path = tmp_path / "rate.html"
    assert main([str(run), "--output", str(path)]) == 0
    return path


def downloaded(directory, count=1):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        files = sorted(directory.glob("*.json")) if directory.is_dir() else []
        if len(files) == count:
            return files
        time.sleep(0.1)
    raise AssertionError(f"{count} files expected in {directory}, there are {files}")


def test_twenty_ratings_by_keys_and_the_figures_that_come_of_them(browser, rating_page, run, tmp_path, capsys):
    """Persona 14, other 3, tie 2, nonsense 1, with an undo and reloads on the way."""
    ballots = asked(run).ballots
    who = ["persona"] * 4 + ["other", "tie"] + ["persona"] * 6 + ["nonsense", "other", "tie", "other"] + ["persona"] * 4
    names = {"1": "1", "2": "2", "t": "tie", "n": "nonsense"}
    keys = [choice_of(ballot, one)[0] for ballot, one in zip(ballots, who, strict=True)]

    browser.open(rating_page)
    assert browser.text("#progress") == "20 ballots"
    assert not browser.shown("#ballot")
    browser.click("#rater")
    browser.press(*"Ann 12tnu", "enter")  # keys belong to the name as long as it is typed
    assert browser.text("#progress") == "1 of 20 · 0 rated"
    assert browser.text("#prompt") == ballots[0].prompt
    assert [browser.text("#text-1"), browser.text("#text-2")] == [
        ballots[0].shown[side] for side in ("first", "second")
    ]

    browser.press(*keys[:7])
    assert browser.text("#progress") == "8 of 20 · 7 rated"
    browser.reload()
    assert browser.text("#progress") == "8 of 20 · 7 rated"
    assert not browser.shown("#start")
    browser.press("n")  # by mistake
    assert browser.text("#progress") == "9 of 20 · 8 rated"
    browser.press("u")
    assert browser.text("#progress") == "8 of 20 · 7 rated"
    browser.press("left", "left")
    assert browser.text("#prompt") == ballots[5].prompt
    assert browser.text("[aria-pressed=true]") == "tTie"
    browser.press("right", "right")
    for key in keys[7:-1]:
        browser.press(key)
    browser.reload()
    assert browser.text("#progress") == "20 of 20 · 19 rated"
    browser.click(f'[data-choice="{names[keys[-1]]}"]')  # the last one by mouse
    assert browser.text("#progress") == "The end · 20 rated"
    assert browser.text("#summary").startswith("All are rated")
    browser.click("#export")

    (file,) = downloaded(tmp_path / "downloads")
    assert file.name.startswith("ratings-ann-12tnu-")
    content = json.loads(file.read_text())
    assert content["rater"] == "Ann 12tnu"
    assert [rating["id"] for rating in content["ballots"]] == [ballot.id for ballot in ballots]
    assert [rating["choice"] for rating in content["ballots"]] == [names[key] for key in keys]
    capsys.readouterr()
    assert main([str(run), "--ratings", str(file)]) == 0
    said = capsys.readouterr().out
    print(said)
    assert "Ann 12tnu: 20 of 20 ballots" in said
    decided = keys.count("1") + keys.count("2")
    assert f"answer 1 in {keys.count('1')} of {decided} decided" in said
    for opponent in ("dense", "with_prompt"):
        own = [one for ballot, one in zip(ballots, who) if ballot.opponent == opponent and one != "nonsense"]
        preferred = (own.count("persona") + own.count("tie") / 2) / len(own)
        assert f"persona against {opponent}: 10 ratings of 10 prompts by 1 rater" in said
        assert re.search(f"persona against {opponent}.*\n  persona preferred +{preferred:.2f} ", said)


def test_another_page_starts_afresh_and_this_one_goes_on(browser, rating_page, run, tmp_path):
    other = tmp_path / "other.html"
    assert main([str(run), "--output", str(other), "--seed", "7"]) == 0
    browser.open(rating_page)
    browser.click("#begin")
    browser.press("1", "2")
    browser.open(other)
    assert browser.text("#progress") == "20 ballots"
    browser.open(rating_page)
    assert browser.text("#progress") == "3 of 20 · 2 rated"


def test_a_changed_choice_counts_once_and_undo_brings_the_first_back(browser, rating_page, tmp_path):
    browser.open(rating_page)
    browser.click("#begin")
    browser.press("1", "left", "2")
    assert browser.text("#progress") == "2 of 20 · 1 rated"
    browser.press("u")
    assert browser.text("#progress") == "1 of 20 · 1 rated"
    assert browser.text("[aria-pressed=true]").endswith("Answer 1")
    browser.click("#undo")
    assert browser.text("#progress") == "1 of 20 · 0 rated"
    assert not browser.run("return document.querySelector('#undo').disabled === false")
    browser.press("right", "t")
    browser.click("#export")
    (file,) = downloaded(tmp_path / "downloads")
    (rating,) = json.loads(file.read_text())["ballots"]
    assert rating["choice"] == "tie"
    assert rating["seconds"] >= 0


def test_what_can_be_seen_and_found_in_the_page_is_the_same_on_both_sides(browser, rating_page):
    browser.open(rating_page)
    browser.click("#begin")
    for _ in range(20):
        first, second = browser.run(
            "return [...document.querySelectorAll('article')].map(one => { const copy = one.cloneNode(true);"
            "copy.querySelector('.text').textContent = ''; return copy.outerHTML; })"
        )
        assert re.sub("(?<![h\\d])[12]", "#", first) == re.sub("(?<![h\\d])[12]", "#", second)
        browser.press("right")
    assert browser.text("#summary") == "0 of 20 are rated; you can export what there is."


def test_the_page_asks_for_nothing_and_fits_a_phone(browser, rating_page):
    browser.open(rating_page)
    browser.click("#begin")
    assert browser.run("return performance.getEntriesByType('resource').map(one => one.name)") in ([], ["data:,"])
    size = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.call("/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth && innerWidth <= 400")
    unnamed = "return [...document.querySelectorAll('button, input, progress')].filter(one => !(one.labels?.length "
    assert browser.run(unnamed + "|| one.ariaLabel || one.textContent.trim())).map(one => one.outerHTML)") == []
