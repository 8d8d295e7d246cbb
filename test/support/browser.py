# SPDX-License-Identifier: Apache-2.0
"""
Pages in a real browser: headless Chromium, driven over chromedriver's WebDriver protocol.

    png, messages = open_page(path_or_url, tmp_path)      one screenshot
    with browser(tmp_path) as page: ...                   clicks, scripts, several screenshots

Nothing but this machine can be reached: a page that asks for more shows a console error. Tests
carry `@needs_browser`, which skips them with the reason where there is no browser.
"""

import base64
from collections.abc import Iterator
from contextlib import contextmanager, suppress
import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import time
from typing import Any, NamedTuple
import urllib.error
import urllib.request

import pytest

_OPTIONS = (
    '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-background-networking',
    '--disable-component-update', '--disable-default-apps', '--disable-sync', '--no-first-run',
    '--disable-dev-shm-usage', '--hide-scrollbars', '--no-proxy-server', '--mute-audio',
    '--use-angle=swiftshader', '--enable-unsafe-swiftshader',  # WebGL without a graphics card
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1')
_START_S, _CALL_S = 60.0, 120.0  # a loaded machine is slow
_ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'  # the protocol's name for a reference


class ConsoleMessage(NamedTuple):
    """One line of the page's console; `level` is SEVERE, WARNING, INFO or DEBUG."""

    level: str
    text: str


def _chromium() -> str | None:
    return next(filter(None, map(shutil.which, ('chromium', 'chromium-browser',
                                                'google-chrome'))), None)


def missing() -> str:
    """Why there is no browser here; empty where there is one."""
    names = {'Chromium': _chromium(), 'chromedriver': shutil.which('chromedriver')}
    lacking = [name for name, path in names.items() if path is None]
    return f'needs {" and ".join(lacking)} (Debian: chromium chromium-driver)' if lacking else ''


needs_browser = pytest.mark.skipif(bool(missing()), reason=missing() or 'there is a browser')


def open_page(url_or_path: str | Path, tmp_path: Path, size: tuple[int, int] = (1280, 900),
              settle_s: float = 0.5) -> tuple[Path, list[ConsoleMessage]]:
    """Open a file or an address; a screenshot of the whole page, and what the console says."""
    with browser(tmp_path, size) as page:
        page.open(url_or_path)
        time.sleep(settle_s)
        return page.whole_screenshot(tmp_path / 'page.png'), page.console()


def errors(messages: list[ConsoleMessage]) -> list[str]:
    """Texts of the errors, of which a page must have none."""
    return [message.text for message in messages if message.level == 'SEVERE']


class Page:
    """A tab of a running browser."""

    def __init__(self, address: str, size: tuple[int, int], profile: Path) -> None:
        """Start a browser through the chromedriver at `address`."""
        options = [*_OPTIONS, f'--window-size={size[0]},{size[1]}', f'--user-data-dir={profile}']
        wanted = {'browserName': 'chrome', 'goog:loggingPrefs': {'browser': 'ALL'},
                  'goog:chromeOptions': {'args': options, 'binary': _chromium()}}
        self._address = address
        made = self._call('POST', '/session', {'capabilities': {'alwaysMatch': wanted}})
        self._session = f'/session/{made["sessionId"]}'
        self._size = size
        self._chrome('Emulation.setDeviceMetricsOverride', width=size[0], height=size[1],
                     deviceScaleFactor=1, mobile=False)

    def open(self, url_or_path: str | Path) -> None:
        """Load a page and wait for its load event."""
        url = str(url_or_path)
        if '://' not in url:
            url = Path(url).resolve().as_uri()
        self._call('POST', f'{self._session}/url', {'url': url})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a function body in the page; what it returns."""
        return self._call('POST', f'{self._session}/execute/sync',
                          {'script': script, 'args': list(arguments)})

    def wait_for(self, script: str, *arguments: Any, seconds: float = 60.0) -> Any:
        """Run a function body again and again until it returns something true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script, *arguments)):
            assert time.monotonic() < end, f'not so within {seconds} s: {script}'
            time.sleep(0.1)
        return value

    def find(self, xpath: str, seconds: float = 60.0) -> Any:
        """Wait for a visible element; its reference, good as an argument of `run` and `click`."""
        end = time.monotonic() + seconds
        while True:
            for found in self._call('POST', f'{self._session}/elements',
                                    {'using': 'xpath', 'value': xpath}):
                if self.run('return arguments[0].checkVisibility()', found):
                    return found
            assert time.monotonic() < end, f'no {xpath} within {seconds} s'
            time.sleep(0.1)

    def click(self, xpath: str) -> None:
        """Click on an element, which must be visible and not covered by another."""
        self._call('POST', f'{self._session}/element/{self.find(xpath)[_ELEMENT]}/click', {})

    def drag(self, start: tuple[int, int], by: tuple[int, int], seconds: float = 0.5) -> None:
        """Press the left button, move, let go."""
        moves = [{'type': 'pointerMove', 'x': start[0], 'y': start[1], 'duration': 0},
                 {'type': 'pointerDown', 'button': 0},
                 {'type': 'pointerMove', 'x': start[0] + by[0], 'y': start[1] + by[1],
                  'duration': int(1000 * seconds)},
                 {'type': 'pointerUp', 'button': 0}]
        self._call('POST', f'{self._session}/actions', {'actions': [
            {'type': 'pointer', 'id': 'mouse', 'parameters': {'pointerType': 'mouse'},
             'actions': moves}]})

    def console(self) -> list[ConsoleMessage]:
        """Messages since the last call."""
        return [ConsoleMessage(entry['level'], entry['message']) for entry in
                self._call('POST', f'{self._session}/se/log', {'type': 'browser'})]

    def screenshot(self, path: Path) -> Path:
        """What is in the window, as PNG."""
        path.write_bytes(base64.b64decode(self._call('GET', f'{self._session}/screenshot')))
        return path

    def whole_screenshot(self, path: Path) -> Path:
        """The page from top to end, as PNG."""
        height = self.run('return document.documentElement.scrollHeight')
        clip = {'x': 0, 'y': 0, 'width': self._size[0], 'height': height, 'scale': 1}
        shot = self._chrome('Page.captureScreenshot', captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot['data']))
        return path

    def close(self) -> None:
        """End the browser."""
        self._call('DELETE', self._session)

    def _chrome(self, command: str, **parameters: Any) -> Any:
        return self._call('POST', f'{self._session}/goog/cdp/execute',
                          {'cmd': command, 'params': parameters})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, method=method,
                                         headers={'Content-Type': 'application/json'})
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=_CALL_S) as answer:
                return json.load(answer)['value']
        except urllib.error.HTTPError as error:
            value = json.load(error)['value']
            raise RuntimeError(f'{method} {path}: {value["error"]}: {value["message"]}') from None


@contextmanager
def browser(tmp_path: Path, size: tuple[int, int] = (1280, 900)) -> Iterator[Page]:
    """A browser with a fresh profile under `tmp_path`; it ends with the block."""
    log = tmp_path / 'chromedriver.log'
    with log.open('w') as file:
        driver = subprocess.Popen(['chromedriver', '--port=0'], stdout=file, stderr=file,
                                  start_new_session=True)
    try:
        page = Page(f'http://127.0.0.1:{_port(driver, log)}', size, tmp_path / 'profile')
        try:
            yield page
        finally:
            with suppress(OSError, RuntimeError):  # it may have ended; it is killed below
                page.close()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        shutil.rmtree(tmp_path / 'profile', ignore_errors=True)


def _port(driver: 'subprocess.Popen[bytes]', log: Path) -> int:
    """The port that chromedriver chose, as its log says."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end and driver.poll() is None:
        started = re.search(r'started successfully on port (\d+)', log.read_text())
        if started:
            return int(started[1])
        time.sleep(0.05)
    raise RuntimeError(f'chromedriver does not start: {log.read_text()}')
