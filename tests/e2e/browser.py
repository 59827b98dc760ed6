"""A real browser, headless, that asks nobody but the page; tests skip where there is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.e2e.servers import clean_environment
from tests.places import REPOSITORY
from tests.ports import free_port
from tests.programs import MISSING, find

CHROMIUM, DRIVER = find("chromium"), find("chromedriver")
AXE = "axe-core@4.14.1"
_QUIET = ("background-networking", "component-update", "sync", "gpu", "default-apps", "extensions")


class Page:
    """The reading page in a browser window."""

    def __init__(self, driver: webdriver.Chrome, url: str, downloads: Path) -> None:
        self.driver, self.url, self.downloads = driver, url, downloads

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Wait until a JavaScript expression is true; its value."""
        return WebDriverWait(self.driver, seconds, 0.05).until(lambda driver: driver.execute_script(f"return {script}"))

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def open(self, path: str = "") -> None:
        self.driver.get(self.url + path)

    def start(self) -> None:
        """Open the page and acknowledge the notice."""
        self.open()
        self.click("#ack button")
        self.wait("document.querySelector('#main')?.dataset.acknowledged === '1'")

    def give(self, films: Sequence[Path]) -> None:
        """Choose films as a user does, and wait until none is on its way."""
        before = len(self.rows())
        self.driver.find_element(By.ID, "files").send_keys("\n".join(map(str, films)))
        done = "document.querySelectorAll('#worklist tbody tr').length === " + str(before + len(films))
        self.wait(f"{done} && !document.querySelector('#worklist tbody progress')")

    def rows(self) -> list[dict[str, str]]:
        """What the worklist shows, from top to bottom."""
        found: list[dict[str, str]] = self.js(
            "return [...document.querySelectorAll('#worklist tbody tr')].map(row => ({"
            "name: row.querySelector('.open').textContent, outcome: row.dataset.outcome,"
            "score: row.querySelector('.score').textContent, state: row.querySelector('.state').textContent}))"
        )
        return found

    def pixels(self) -> list[int]:
        """A sample of what the viewer shows, after it has drawn."""
        sample: list[int] = self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => {"
            "const c = document.querySelector('#view');"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "done([...d.filter((_, i) => i % 4 < 3 && Math.floor(i / 4) % 97 === 0)]); }))"
        )
        return sample

    def downloaded(self, name: str) -> bytes:
        path = self.downloads / name
        deadline = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < deadline, f"{name} was not saved"
            time.sleep(0.05)
        return path.read_bytes()


@contextmanager
def browsing(url: str, width: int = 1280, height: int = 800, phone: bool = False) -> Iterator[Page]:
    """A window of its own, with an empty profile."""
    with tempfile.TemporaryDirectory(prefix="cxr-browser-", ignore_cleanup_errors=True) as folder:
        downloads = Path(folder) / "downloads"
        downloads.mkdir()
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (
            "headless=new",
            "no-sandbox",
            "no-first-run",
            "hide-scrollbars",
            *(f"disable-{q}" for q in _QUIET),
        ):
            options.add_argument(f"--{flag}")
        options.add_argument(f"--user-data-dir={folder}/profile")
        options.add_argument(f"--window-size={width},{height}")
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        if phone:
            metrics = {"width": width, "height": height, "pixelRatio": 2, "touch": True}
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            if not phone:
                metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            yield Page(driver, url, downloads)
        finally:
            driver.quit()


@contextmanager
def served_page(server_url: str, run_dir: Path, **variables: str) -> Iterator[str]:
    """The page as `pneumoscan web` shows it, in front of a server; its address."""
    port = free_port()
    command = [sys.executable, "-m", "scripts.web", "--port", str(port), "--url", server_url, "--run-dir", str(run_dir)]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=clean_environment() | variables, stdout=subprocess.PIPE, text=True
    )
    url = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + 60
        while not _is_up(url):
            assert process.poll() is None, "pneumoscan web ended"
            assert time.monotonic() < deadline, "the page did not come up"
            time.sleep(0.05)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert url in process.stdout.read()


def _is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}healthz", timeout=2).ok
    except requests.RequestException:
        return False


def axe_core(folder: Path) -> str:
    """The source of axe-core from the npm registry; skips the test where it cannot be had."""
    npm = find("npm")
    if npm is None:
        pytest.skip(f"{MISSING}npm (apt-get install npm), to fetch axe-core with")
    command = [npm, "pack", AXE, "--silent", "--fetch-retries=0", "--fetch-timeout=20000", "--pack-destination", folder]
    environment = os.environ | {"npm_config_cache": str(folder / "cache"), "npm_config_update_notifier": "false"}
    try:
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry does not answer: no axe-core")
    packed = next(folder.glob("*.tgz"), None)
    if done.returncode or packed is None:
        pytest.skip("the npm registry has no axe-core for us")
    with tarfile.open(packed) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()
