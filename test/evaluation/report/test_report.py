# SPDX-License-Identifier: Apache-2.0
"""The report of a drive: its parts one by one, and the whole page in a real browser."""

from html.parser import HTMLParser

import browser
import cv2
import numpy as np
import pytest
from stand_in_map import StandInMap

from thermal_nerf_loc.evaluation import metrics
from thermal_nerf_loc.evaluation.report import example_frames, page, plots, replay_page
from thermal_nerf_loc.evaluation.study import comparison
from thermal_nerf_loc.evaluation.study.comparison import Run, UpdateRecord
from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.trajectory import Trajectory
from thermal_nerf_loc.sensing.frame import RGB, SensorImage, THERMAL
from thermal_nerf_loc.sensing.rendering import RayRendering
from thermal_nerf_loc.visualization.colour_map import CELSIUS, ColourScale, HEAT
from thermal_nerf_loc.visualization.top_view import ground_axes, render_top_view

NS = 1_000_000_000


class Field(StandInMap):
    """Flat ground at z = 0 of a few colours; for x > 5 nobody ever looked."""

    modalities = (RGB, THERMAL)
    bounds = np.array([[-4.0, -4.0, 0.0], [8.0, 4.0, 3.0]])

    def render_rays(self, modality, origins, directions):
        """See `Renderer`."""
        distance = origins[:, 2] / np.maximum(-directions[:, 2], 1e-3)
        hit = origins + distance[:, None] * directions
        values = (np.stack([hit[:, 0] > 0.0, hit[:, 1] > 0.0, hit[:, 0] < -9.0], -1)
                  if modality == RGB else hit[:, :1] + 20.0)
        spread = np.where(hit[:, 0] > 5.0, 2.0, 0.01)
        return RayRendering(values.astype(np.float32), distance.astype(np.float32),
                            spread.astype(np.float32), np.ones(len(hit), np.float32))


def circle(count=41, off_m=0.0):
    angle = np.arange(count) * 0.05
    w = np.stack([0 * angle, 0 * angle, angle], axis=1)
    t = 2.0 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    off = off_m * np.linspace(0.5, 1.5, count)[:, None] * (1, 0, 0, 0, 0.2, 0)
    return Trajectory((np.arange(count) * 0.1 * NS).astype(np.int64),
                      se3.plus(se3.from_parts(se3.so3_exp(w), t), off))


def make_run(off_m=0.02, method='both', drive='bag', with_records=True):
    truth, estimated = circle(), circle(off_m=off_m)
    states = ['initializing'] + ['tracking'] * 19 + ['lost'] * 5 + ['tracking'] * 16
    known = [UpdateRecord(int(stamp), state, 'smoke' if state == 'lost' else '', 0.2 + 0.019 * k,
                          0.03)
             for k, (stamp, state) in enumerate(zip(truth.stamps_ns, states))]
    kept = [k for k, state in enumerate(states) if state == 'tracking']
    estimated = Trajectory(estimated.stamps_ns[kept], estimated.poses[kept])
    return Run(drive, method, estimated, tuple((m.stamp_ns, m.state) for m in known),
               metrics.evaluate(estimated, truth), 6 / 41, 41, 5.0, np.linspace(0.1, 0.3, 41),
               tuple(known) if with_records else (), 'offline' if with_records else 'file')


def decode(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_top_view_is_the_ground_under_the_drive():
    view = render_top_view(Field(), circle().poses, pixels=120)
    left, right, bottom, top = view.extent_m
    assert view.axes == (0, 1)
    assert (left, bottom) == pytest.approx((-2.83, -2.0), abs=0.01)  # 2 m beside the drive
    assert (right, top) == pytest.approx((4.0, 4.0), abs=0.01)  # there the box ends the view

    def at(x, y):
        rows, columns = view.image.shape[:2]
        return view.image[int((top - y) / (top - bottom) * rows),
                          int((x - left) / (right - left) * columns)].tolist()

    assert at(1.0, 1.0) == pytest.approx([1.0, 1.0, 0.3, 1.0])  # red + green, paled
    assert at(1.0, -1.0) == pytest.approx([1.0, 0.3, 0.3, 1.0])
    assert at(-1.0, 1.0) == pytest.approx([0.3, 1.0, 0.3, 1.0])


def test_top_view_leaves_out_what_no_camera_saw():
    far = circle().poses.copy()
    far[:, 0, 3] += 3.0
    view = render_top_view(Field(), far, pixels=80)
    columns = np.linspace(*view.extent_m[:2], view.image.shape[1])
    assert (view.image[:, columns > 5.2, 3] == 0.0).all()
    assert (view.image[:, columns < 4.8, 3] == 1.0).all()


@pytest.mark.parametrize('up, axes', [
    ([0, 0, 1], (0, 1)), ([0, 0, -1], (1, 0)), ([0, 1, 0], (2, 0)), ([-1, 0, 0], (2, 1))])
def test_the_page_lies_on_the_ground(up, axes):
    T = np.eye(4)
    z = np.array(up, np.float64)
    x = np.roll(np.abs(z), 1)
    T[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1)
    assert ground_axes(T[None])[0] == axes
    right, upwards = np.eye(3)[list(axes)]
    np.testing.assert_array_equal(np.cross(right, upwards), z)  # seen from above, not mirrored


def test_examples_are_the_best_the_median_and_the_worst():
    run = make_run()
    chosen = example_frames.choose_examples(run)
    assert [one.title for one in chosen] == ['best', 'median', 'worst']
    assert chosen[0].error_m < chosen[1].error_m < chosen[2].error_m
    assert chosen[0].error_m == pytest.approx(run.evaluation.absolute.metres.min())
    assert chosen[2].error_m == pytest.approx(run.evaluation.absolute.metres.max())
    assert chosen[2].seconds == pytest.approx(4.0)
    assert chosen[2].record.state == 'tracking'
    blind = Run('bag', 'both', run.trajectory, run.states, records=run.records)
    chosen = example_frames.choose_examples(blind)
    assert chosen[0].record.confidence > chosen[1].record.confidence
    assert chosen[0].error_m is None
    assert example_frames.choose_examples(Run('bag', 'x', run.trajectory, run.states)) == []


def test_pairs_are_rendered_from_where_the_camera_is():
    T = np.eye(4)
    T[:3, :3] = np.diag([1.0, -1.0, -1.0])  # looks down
    T[:3, 3] = (0.0, 0.0, 1.0)
    camera = Camera.from_fov(64, 48, 60.0)
    rays = camera.rays() @ T[:3, :3].T
    field = Field()
    images = {}
    for modality in field.modalities:
        values = field.render_rays(modality, np.tile(T[:3, 3], (len(rays), 1)), rays).values
        images[modality] = SensorImage(camera, values.reshape(48, 64, -1), 0), T
    pairs = example_frames.render_pairs(field, images, widest_px=32)
    assert [pair.modality for pair in pairs] == [RGB, THERMAL]
    assert pairs[0].seen.shape == pairs[0].rendered.shape == (24, 32, 3)
    for pair in pairs:
        off = np.abs(pair.seen.astype(int) - pair.rendered)
        assert np.median(off) < 8
    assert pairs[0].scale is None
    assert (pairs[1].scale.low, pairs[1].scale.high) == pytest.approx((19.43, 20.57), abs=0.05)
    captions = dict(example_frames.encode_pairs(pairs))
    assert any('19.4 to 20.6 °C' in caption for caption in captions)
    for png in captions.values():
        assert decode(png).shape[0] == 24


def test_figures_are_pictures_and_always_the_same():
    runs = [make_run(), make_run(0.05, 'rgb'), make_run(0.03, 'other', with_records=False)]
    figures = {'trajectory': plots.plot_trajectory(runs, circle(), render_top_view(
        Field(), circle().poses, 60)), 'errors': plots.plot_errors(runs),
        'shares': plots.plot_shares(runs), 'bare': plots.plot_trajectory(runs[:1])}
    for figure in figures.values():
        image = decode(plots.encode(figure, 'png'))
        assert image.shape[0] > 200
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
    assert plots.encode(figures['bare'], 'pdf').startswith(b'%PDF')
    again = plots.plot_trajectory(runs[:1])
    assert plots.encode(again, 'svg') == plots.encode(plots.plot_trajectory(runs[:1]), 'svg')
    one = runs[0].evaluation.absolute
    assert plots.plot_error_histogram(one.metres, one.degrees).startswith(b'\x89PNG')


def test_a_system_with_a_frame_of_its_own_is_drawn_on_the_truth():
    truth = circle()
    moved = se3.exp([5.0, 3.0, 0.0, 0.0, 0.0, 1.0]) @ truth.poses
    moved[:, :3, 3] *= 0.5
    other = Trajectory(truth.stamps_ns, moved)
    run = Run('bag', 'other', other, ((0, 'pose'), (4 * NS, 'pose')), metrics.evaluate(
        other, truth, metrics.EvaluationConfig(align='sim3')))
    drawn = plots.plot_trajectory([run], truth).axes[0].lines[-2].get_xydata()
    np.testing.assert_allclose(drawn, truth.poses[:, :2, 3], atol=1e-9)


class Reader(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self):
        """Nothing read yet."""
        super().__init__()
        self.sources, self.links, self.scripts, self.text = [], [], 0, ''

    def handle_starttag(self, tag, attrs):
        """Collect."""
        named = dict(attrs)
        self.sources += [named['src']] if 'src' in named else []
        self.links += [named['href']] if 'href' in named else []
        self.scripts += tag == 'script'

    def handle_data(self, data):
        """Collect."""
        self.text += data


def make_page(several=True):
    runs = [make_run()] + ([make_run(0.05, 'rgb'), make_run(0.03, '<other>', with_records=False)]
                           if several else [])
    pictures = {'trajectory': plots.plot_trajectory(runs, circle(), render_top_view(
        Field(), circle().poses, 60)), 'errors': plots.plot_errors(runs)}
    pixels = np.full((24, 32, 3), 128, np.uint8)
    pairs = example_frames.encode_pairs([
        example_frames.ImagePair(RGB, pixels, pixels),
        example_frames.ImagePair(THERMAL, pixels, pixels,
                                 ColourScale(HEAT, 18.0, 31.0, CELSIUS))])
    sheet = replay_page.DriveSheet(
        'bag', runs, {name: plots.encode(figure, 'svg') for name, figure in pictures.items()},
        [(one, pairs) for one in example_frames.choose_examples(runs[0])])
    return replay_page.replay_page(
        'bag in <room>.map', comparison.rows(runs), comparison.figures_of(runs[:1]), [sheet],
        {'Versions': {'numpy': np.__version__}, 'Parameters': {f'p{k}': k for k in range(40)}})


def test_the_page_carries_everything_with_it():
    text = make_page()
    reader = Reader()
    reader.feed(text)
    assert reader.scripts == 0
    assert len(reader.sources) == 2 + 3 * 2
    assert all(source.startswith('data:image/') for source in reader.sources)
    assert reader.links == ['data:,']
    assert 'url(' not in text.split('</style>')[0]
    for expected in ('bag in <room>.map', 'Side by side', '<other>', 'Best moment', 'Worst moment',
                     'ate_rmse_m', 'found again s', '18.0 to 31.0 °C', np.__version__, 'p39'):
        assert expected in reader.text
    assert 'Side by side' not in make_page(several=False)


def test_a_verdict_tells_the_worst_too():
    figures = comparison.figures_of([make_run()])
    told = replay_page.summary_text(figures)
    assert 'RMSE against the truth at 35 poses' in told
    assert 'Without a pose in 14.6% of the updates, 0.6 s in all; lost once' in told
    blind = comparison.figures_of([Run('bag', 'both', circle(), ((0, 'tracking'),), updates=41)])
    assert replay_page.summary_text(blind).startswith('There is no truth')
    assert 'It always had a pose' in replay_page.summary_text(blind)


@browser.needs_browser
def test_the_page_in_a_real_browser(tmp_path):
    (tmp_path / 'report.html').write_text(make_page())
    for width in (390, 1100):  # a phone, a desk
        with browser.browser(tmp_path, (width, 900)) as tab:
            tab.open(tmp_path / 'report.html')
            sizes = tab.run('return [...document.images].map(i => [i.complete, i.naturalWidth])')
            assert len(sizes) == 8
            assert all(complete and pixels > 0 for complete, pixels in sizes)
            assert tab.run('return document.documentElement.scrollWidth') <= width
            assert browser.errors(tab.console()) == []
            shot = decode(tab.whole_screenshot(tmp_path / f'{width}.png').read_bytes())
        assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 500


def test_a_page_escapes_what_it_is_given():
    text = page.page('<b>', [page.table(('a<',), [['<script>']]), page.paragraph('x & y'),
                             page.settings('s"', {'<i>': '</td>'}, folded=True)])
    assert '<b>' not in text.split('<body>')[1]
    assert '<script>' not in text
    assert 'x &amp; y' in text
