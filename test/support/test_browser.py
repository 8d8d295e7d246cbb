# SPDX-License-Identifier: Apache-2.0
"""The tests' own browser sees what it should: errors in the console, pictures, clicks."""

from browser import browser, errors, needs_browser, open_page
import cv2

GREEN = """<!DOCTYPE html><html><head><meta charset="utf-8"><title>t</title></head>
<body style="margin:0;background:#00ff00;height:1500px"><button onclick="document.title='hit'">
Press</button><canvas id="c" width="64" height="64"></canvas></body></html>"""
DRAW = """const gl = document.getElementById('c').getContext('webgl',
{preserveDrawingBuffer: true}); gl.clearColor(1, 0, 0, 1); gl.clear(gl.COLOR_BUFFER_BIT);
const p = new Uint8Array(4); gl.readPixels(9, 9, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, p);
return Array.from(p)"""


@needs_browser
def test_page_is_seen_whole_and_is_quiet(tmp_path):
    page = tmp_path / 'a page.html'
    page.write_text(GREEN)
    png, messages = open_page(page, tmp_path, size=(400, 300))
    picture = cv2.imread(str(png))
    assert picture.shape == (1500, 400, 3)
    assert picture[1400, 200].tolist() == [0, 255, 0]
    assert messages == []
    assert not (tmp_path / 'profile').exists()


@needs_browser
def test_errors_and_the_network_are_told_and_controls_work(tmp_path):
    page_file = tmp_path / 'page.html'
    page_file.write_text(GREEN)
    with browser(tmp_path) as page:
        page.open(page_file)
        page.click('//button[contains(., "Press")]')
        assert page.run('return document.title') == 'hit'
        assert page.run(DRAW) == [255, 0, 0, 255]
        page.run('console.warn("beware"); setTimeout(() => { throw Error("planted") }, 0)')
        page.run('document.body.append(Object.assign(new Image(), '
                 '{src: "http://example.org/x.png"}))')
        page.wait_for('return document.images[0].complete')
        messages = page.console()
    assert any('beware' in message.text for message in messages if message.level == 'WARNING')
    texts = ' '.join(errors(messages))
    assert 'planted' in texts and 'ERR_NAME_NOT_RESOLVED' in texts and 'beware' not in texts
