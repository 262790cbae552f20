"""A browser for the pages."""

from __future__ import annotations

import base64
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class Browser:
    """Chromium without a window; every error in the page fails the test."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, page: str = "") -> None:
        """Open a file and wait for its viewer, if it has one."""
        self.driver.get("about:blank")
        self.driver.get(f"{path.as_uri()}{page and '#' + page}")
        self.wait("return document.readyState === 'complete'")

    def script(self, text: str, *arguments: Any) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(text, *arguments)

    def wait(self, text: str, *arguments: Any) -> None:
        """Wait until a script gives something true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 20, 0.05).until(lambda _: self.script(text, *arguments))

    def viewer(self) -> None:
        """Wait until the viewer has drawn."""
        self.wait("return Boolean(document.querySelector('[data-readout]')?.textContent)")

    def set(self, control: str, value: Any) -> None:
        """Change a control of the viewer and wait until it is drawn."""
        self.script(
            "const box = document.querySelector(`[data-control='${arguments[0]}']`), value = arguments[1];"
            "if (box.type === 'checkbox') { if (box.checked !== value) box.click(); return; }"
            "box.value = value; box.dispatchEvent(new Event(box.tagName === 'SELECT' ? 'change' : 'input'));",
            control,
            value,
        )
        self.settle()

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.wait("const { asked, drawn } = document.querySelector('[data-asked]').dataset; return asked === drawn")

    def pixels(self, plane: str) -> np.ndarray:
        """What a plane shows, (rows, columns, 4)."""
        width, height, data = self.script(
            "const c = document.querySelector(`[data-view='${arguments[0]}']`);"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "let text = '';"
            "for (let i = 0; i < d.length; i += 8192) text += String.fromCharCode(...d.subarray(i, i + 8192));"
            "return [c.width, c.height, btoa(text)]",
            plane,
        )
        return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)

    def press(self, key: str, target: str) -> None:
        """Press a key on an element."""
        self.script(
            "document.querySelector(arguments[1]).dispatchEvent("
            "new KeyboardEvent('keydown', {key: arguments[0], bubbles: true, cancelable: true}))",
            key,
            target,
        )
        self.settle()

    def resize(self, width: int = 1400, height: int = 1000) -> None:
        """Give the window another size; call it again without one when done."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def printed(self) -> bytes:
        """The page as a PDF file."""
        found = self.driver.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
        return base64.b64decode(found["data"])

    def errors(self) -> list[str]:
        """What the console of the browser complains about, but for the reading of pixels, which is ours."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        return [message for message in messages if "willReadFrequently" not in message]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for all tests; they are skipped where there is none."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    program = shutil.which("chromedriver")
    if importlib.util.find_spec("selenium") is None or not binary or not program:
        pytest.skip("the page is not opened: this needs selenium, chromium and chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1400,1000",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(program))
    yield Browser(driver)
    driver.quit()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser; a complaint of the page fails the test."""
    chromium.errors()
    chromium.resize()
    yield chromium
    assert chromium.errors() == []
