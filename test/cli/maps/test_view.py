# SPDX-License-Identifier: Apache-2.0
"""`view`: the page serves, draws, answers to its controls in a real browser, and ends well."""

import importlib.util
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from browser import browser, errors, needs_browser
import cv2
import numpy as np
import pytest
from viewed_world import install, ViewedWorld

from thermal_nerf_loc.cli import main
from thermal_nerf_loc.io.trajectory import Trajectory, write_tum

SUPPORT = Path(__file__).parents[2] / 'support'
needs_viser = pytest.mark.skipif(importlib.util.find_spec('viser') is None,
                                 reason='needs viser (the extra `view`)')


def test_without_viser_the_way_to_get_it_is_told(monkeypatch, capsys):
    install(monkeypatch)
    monkeypatch.setitem(sys.modules, 'viser', None)
    assert main(['view', 'm']) == 1
    error = capsys.readouterr().err
    assert "pip install 'viser>=1.1'" in error and 'Traceback' not in error


@pytest.mark.parametrize('port', ['0', '70000', 'taken'])
def test_a_port_that_cannot_be_had_is_refused(monkeypatch, capsys, port):
    install(monkeypatch)
    monkeypatch.setitem(sys.modules, 'viser', sys)  # it comes later
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = str(taken.getsockname()[1]) if port == 'taken' else port
        assert main(['view', 'm', '--port', port]) == 2
    assert port in capsys.readouterr().err


@pytest.fixture
def page(tmp_path):
    """A page of the simulated room: (address, process)."""
    world = ViewedWorld()
    write_tum(tmp_path / 'drive.tum', Trajectory(np.arange(12) * 10**8, world.keyframes.poses))
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, SUPPORT / 'viewed_world.py', 'view', 'room', '--port', str(port),
         '--trajectory', tmp_path / 'drive.tum'], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    told = ''
    while 'http://' not in told:
        told = process.stderr.readline()
        assert told, process.communicate()
    try:
        yield told.split()[1], process
    finally:
        process.kill()
        process.communicate()


@needs_viser
def test_the_page_is_served_until_ctrl_c(page):
    address, process = page
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(address, timeout=30) as answer:
        assert answer.status == 200 and b'<script' in answer.read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert 'points' in out and 'Traceback' not in err
    assert 'viser' not in out, 'its greeting'


def choose(tab, label, option):
    tab.click(f'//label[.="{label}"]/following::input[@role="combobox"][1]')
    tab.click(f'//*[@role="option"][.="{option}"]')


def scene(tab, path):
    """The middle of the window, where no control is."""
    return cv2.imread(str(tab.screenshot(path)))[150:600, 250:700].astype(int)


def wait_for_change(tab, path, before, least=3.0):
    end = time.monotonic() + 60.0
    while np.abs((after := scene(tab, path)) - before).mean() < least:
        assert time.monotonic() < end, 'the picture stays as it is'
        time.sleep(0.3)
    return after


@pytest.mark.slow
@needs_viser
@needs_browser
def test_a_browser_shows_the_map_and_its_controls_work(page, tmp_path):
    address, _ = page
    picture = tmp_path / 'page.png'
    with browser(tmp_path, (1200, 700)) as tab:
        tab.open(address)
        tab.find('//label[.="Live view"]')
        tab.find('//label[contains(., "drive")]')
        blank = np.full((450, 450, 3), 255)
        colour = wait_for_change(tab, picture, blank, 20.0)  # the points are there
        assert len(np.unique(colour.reshape(-1, 3), axis=0)) > 500
        choose(tab, 'Points show', 'temperature')
        heat = wait_for_change(tab, picture, colour)
        tab.find('//*[normalize-space(.)="temperature"]/following::img[1]')  # the bar
        choose(tab, 'Points show', 'uncertainty')
        doubt = wait_for_change(tab, picture, heat)
        tab.find('//*[normalize-space(.)="uncertainty"]/following::img[1]')
        choose(tab, 'Points show', 'temperature')
        heat = wait_for_change(tab, picture, doubt)
        tab.drag((475, 400), (120, 30))
        turned = wait_for_change(tab, picture, heat)
        choose(tab, 'Live view', 'temperature')
        wait_for_change(tab, picture, turned)
        tab.wait_for('return /\\d+ x \\d+ in \\d+ ms/.test(document.body.innerText)')
        tab.drag((475, 400), (0, 0), 0.05)
        tab.wait_for('return /m from the camera\\s+[\\d.]+ °C\\s+uncertainty: '
                     'log sigma/.test(document.body.innerText)')
        messages = tab.console()
    assert errors(messages) == []
