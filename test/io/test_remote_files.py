# SPDX-License-Identifier: Apache-2.0
"""Files of a server: fetched once, checked, tried again where the network fails."""

import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import threading

import pytest

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.io import remote_files
from thermal_nerf_loc.io.remote_files import address, fetched, is_remote, read_remote

CONTENT = b'a tile' * 1000
SUM = hashlib.sha256(CONTENT).hexdigest()


class Answers(BaseHTTPRequestHandler):
    """Breaks off as often as `failures` says, then answers."""

    failures, asked = 0, 0

    def do_GET(self):
        type(self).asked += 1
        if self.path != '/tile':
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header('Content-Length', str(len(CONTENT)))
        self.end_headers()
        if type(self).failures > 0:
            type(self).failures -= 1
            self.wfile.write(CONTENT[:100])
            return
        self.wfile.write(CONTENT)

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote_files, '_PAUSE_S', 0.0)
    Answers.failures = Answers.asked = 0
    one = ThreadingHTTPServer(('127.0.0.1', 0), Answers)
    threading.Thread(target=one.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{one.server_port}'
    one.shutdown()
    one.server_close()


def test_a_file_is_fetched_once(server, tmp_path):
    for _ in range(2):
        assert fetched(f'{server}/tile', SUM, tmp_path).read_bytes() == CONTENT
    assert Answers.asked == 1


def test_a_broken_transfer_is_tried_again(server, tmp_path):
    Answers.failures = 2
    assert fetched(f'{server}/tile', SUM, tmp_path).read_bytes() == CONTENT
    Answers.failures = 9
    with pytest.raises(RunError, match='cannot be fetched'):
        read_remote(f'{server}/tile')


def test_a_damaged_copy_is_fetched_again(server, tmp_path):
    (tmp_path / SUM).write_bytes(b'half')
    assert fetched(f'{server}/tile', SUM, tmp_path).read_bytes() == CONTENT


def test_what_is_not_there_or_another_file_is_refused(server, tmp_path):
    with pytest.raises(InputError, match='no such file'):
        read_remote(f'{server}/other')
    with pytest.raises(InputError, match='not the one'):
        fetched(f'{server}/tile', '0' * 64, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_address_survives_as_a_path():
    for url in ('http://host:80/plant.map', 's3://bucket/plant.map'):
        assert is_remote(url) and is_remote(Path(url)) and address(Path(url)) == url
    assert not is_remote('/tmp/plant.map') and not is_remote('C:\\plant.map')
    assert not is_remote('plant.map')
