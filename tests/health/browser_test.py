"""The page in a browser, as people see it; skipped where Chromium, its driver or selenium are missing."""

import contextlib
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import toy_hostile, toy_runs
from tf_codistill import files
from tf_codistill.health import server

pytestmark = pytest.mark.browser

ROOT = pathlib.Path(__file__).parents[2]
LIMIT_SECS, MOST_SECS = 1.0, 5.0


@pytest.fixture(name="browser", scope="module")
def fixture_browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium comes with the extra 'test'")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip(
            "there is no chromium with a chromedriver; Debian's packages are chromium, chromium-driver"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@contextlib.contextmanager
def _served(workdir, port=0):
    """Serves a run in a process of its own; gives the process and where the page is."""
    command = [sys.executable, "-m", "tf_codistill.status", f"--workdir={workdir}", f"--serve={port}"]
    command.append(f"--silent_secs={LIMIT_SECS}")
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process, re.search(r"http://\S+", process.stdout.readline()).group()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def _text(browser, selector="main"):
    return browser.execute_script(f"return document.querySelector('{selector}').innerText")


def _wait_for(browser, text, selector="main", secs=60.0):
    deadline = time.monotonic() + secs
    while text not in _text(browser, selector):
        assert time.monotonic() < deadline, _text(browser, selector)
        time.sleep(0.05)


def _age(workdir, group, at):
    toy_runs.age(workdir / f"group_{group}" / "metrics.jsonl", at)
    for manifest in workdir.glob(f"exchange/group_{group}/*/{files.MANIFEST}"):
        toy_runs.age(manifest, at)


def test_a_group_that_dies_is_shown_within_seconds(browser, tmp_path):
    toy_runs.write(tmp_path, time.time() + 3600)  # by a clock that is ahead, so that it is never silent
    with _served(tmp_path) as (_, url):
        browser.get(url)
        assert "silent" not in _text(browser)
        _age(tmp_path, 1, time.time())
        _wait_for(browser, "silent")
    assert server.REFRESH_SECS + server._READ_SECS < MOST_SECS, "by the clock it would depend on the machine"
    marked = browser.find_elements("css selector", "td.bad")
    assert [cell.text.startswith("silent 0m 0") for cell in marked] == [True]
    assert browser.execute_script("return getComputedStyle(document.querySelector('td.bad')).color") == (
        "rgb(180, 35, 24)"
    )
    assert len(browser.find_elements("css selector", "svg polyline")) == 6


def test_a_page_whose_server_is_gone_says_so_until_it_is_back(browser, tmp_path):
    toy_runs.write(tmp_path, time.time())
    with _served(tmp_path) as (process, url):
        browser.get(url)
        process.send_signal(signal.SIGKILL)
        _wait_for(browser, "no answer since", "aside")
        assert browser.find_element("css selector", "body").get_attribute("class") == "lost"
        process.wait()
    with _served(tmp_path, url.rstrip("/").rpartition(":")[2]):
        browser.execute_async_script("refresh().then(arguments[0])")
        assert _text(browser, "aside") == ""
        assert browser.find_element("css selector", "body").get_attribute("class") == ""


def test_nothing_of_a_hostile_run_is_executed(browser, tmp_path):
    toy_hostile.write(tmp_path)
    with _served(tmp_path) as (_, url):
        browser.get("about:blank")  # so that no other page, whose server has gone, says anything any more
        browser.get_log("browser")
        browser.get(url)
        title = browser.title
        for _ in range(2):  # as it came, and as it was taken anew
            assert _text(browser).count(toy_hostile.TAG) == 3
            assert browser.execute_script("return window.hostile") is None
            assert not browser.find_elements("css selector", "img, main script, b")
            browser.execute_script("document.querySelector('main').innerHTML = ''")
            _wait_for(browser, toy_hostile.TAG)
        assert browser.title == title
        assert not [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
        browser.execute_script(
            "const script = document.createElement('script'); script.textContent = 'window.hostile = 1';"
            "document.body.append(script); document.querySelector('main').innerHTML = arguments[0];",
            toy_hostile.TAG,
        )
        _wait_for(browser, "group")
        assert browser.execute_script("return window.hostile") is None, (
            "the policy stops what is not the page's own"
        )


def test_a_page_in_a_file_is_whole(browser, tmp_path):
    toy_runs.write(tmp_path / "run", time.time())
    page = tmp_path / "run.html"
    command = [sys.executable, "-m", "tf_codistill.status", f"--workdir={tmp_path / 'run'}", f"--html={page}"]
    subprocess.run(command, cwd=ROOT, check=True)
    browser.get(page.as_uri())
    assert "1350/2000" in _text(browser)
    assert len(browser.find_elements("css selector", "svg polyline")) == 6
