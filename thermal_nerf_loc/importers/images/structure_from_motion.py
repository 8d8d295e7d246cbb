# SPDX-License-Identifier: Apache-2.0
"""Structure from motion by pycolmap (an optional dependency): poses of a folder of images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path
import tempfile
from typing import Any, NamedTuple

from thermal_nerf_loc.common.errors import InputError, RunError
from thermal_nerf_loc.common.progress import Progress, silent
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.atomic_files import write_atomically, writing
from thermal_nerf_loc.io.datasets.colmap_model import camera_to_colmap, ColmapModel, read_model
from thermal_nerf_loc.io.images import read_size

INSTALL = "pip install 'pycolmap>=4.0'"  # the extra `sfm`
LENSES = ('OPENCV', 'OPENCV_FISHEYE', 'PINHOLE', 'RADIAL', 'SIMPLE_PINHOLE', 'SIMPLE_RADIAL')
ALL_PAIRS = 'all'
NEIGHBOURS = 'neighbours'

_MAX_IMAGES_FOR_ALL_PAIRS = 150  # 11175 pairs, at some 30 ms each on one core
_NEIGHBOURS = 10  # in the order of names
_LOOP_STEP = 10  # every 10th image is compared with each other 10th one, to close loops
_IMAGES_PER_CALL, _PAIRS_PER_CALL = 4, 100  # between two progress reports
_SEED = 0


class Reconstruction(NamedTuple):
    """The largest model, the number of models that were found, and a note for the user."""

    model: ColmapModel
    models: int
    note: str


def require_pycolmap() -> Any:
    """The module pycolmap; an error says how to install it."""
    try:
        import pycolmap
    except ImportError as error:
        raise InputError('poses from images need pycolmap, which does not import here',
                         got=str(error),
                         hint=f'{INSTALL}, or give poses by --poses.') from None
    if not hasattr(pycolmap, 'FeatureExtractionOptions'):
        raise InputError('pycolmap is too old', expected='4.0 or newer',
                         got=pycolmap.__version__)
    pycolmap.logging.minloglevel = 3  # errors are raised
    return pycolmap


def reconstruct(folder: Path, names: Sequence[str], camera: Camera | None, lens: str,
                matching: str, feature_px: int, progress: Progress = silent,
                guess_px: float | None = None) -> Reconstruction:
    """
    Find the poses of the images `names` in `folder`, all taken by one camera.

    A `camera` that is given is kept as it is; else one of the model `lens` is found. `matching`
    is 'all' pairs, 'neighbours' (in the order of names) or 'auto'. Features are detected in images
    that are scaled down to `feature_px` pixels on their longer side. A lens is found from the
    focal length `guess_px`, where it is given.
    """
    colmap = require_pycolmap()
    if matching == 'auto':
        matching = ALL_PAIRS if len(names) <= _MAX_IMAGES_FOR_ALL_PAIRS else NEIGHBOURS
    pairs = choose_pairs(len(names), matching)
    colmap.set_random_seed(_SEED)
    with _colmap_errors(folder), tempfile.TemporaryDirectory(prefix='colmap-') as scratch:
        work = Path(scratch)
        links = _link(folder, names, work / 'images')
        _extract(colmap, work, list(links), camera, lens, feature_px, guess_px,
                 lambda done, text: progress(0.25 * done, 1.0, text))
        _match(colmap, work, list(links), pairs,
               lambda done, text: progress(0.25 + 0.45 * done, 1.0, text))
        found = _map(colmap, work, camera is not None, len(names),
                     lambda done, text: progress(0.7 + 0.3 * done, 1.0, text))
        if not found:
            raise InputError('no overlap was found between the images', where=folder,
                             expected='images that share enough texture, taken from places some '
                                      'way apart',
                             got=f'{len(names)} images, {len(pairs)} pairs compared',
                             hint='A lens by --cameras FILE helps, where it is known.')
        best = max(found.values(), key=lambda model: int(model.num_reg_images()))
        best.write_text(str(work))
        model = read_model(work)
    model = replace(model, images={links[name]: image for name, image in model.images.items()})
    note = ('every pair of images was compared' if matching == ALL_PAIRS else
            f'images were compared with {_NEIGHBOURS} neighbours in the order of names, and every '
            f'{_LOOP_STEP}th with each other')
    return Reconstruction(model, len(found), note)


def choose_pairs(count: int, matching: str) -> list[tuple[int, int]]:
    """Indices of the pairs of images that are compared."""
    if matching == ALL_PAIRS:
        return list(combinations(range(count), 2))
    near = {(a, b) for a in range(count) for b in range(a + 1, min(a + 1 + _NEIGHBOURS, count))}
    return sorted(near | set(combinations(range(0, count, _LOOP_STEP), 2)))


@contextmanager
def _colmap_errors(folder: Path) -> Iterator[None]:
    """Turn the errors that COLMAP raises for failed checks into a `RunError`."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise RunError('COLMAP gave up', where=folder, got=' '.join(str(error).split()) or
                       type(error).__name__) from error


def _link(folder: Path, names: Sequence[str], into: Path) -> dict[str, str]:
    """Link the images under names without spaces; returns their names by link."""
    links = {f'{index:06d}{Path(name).suffix}': name for index, name in enumerate(names)}
    with writing(into):
        into.mkdir()
        for link, name in links.items():
            (into / link).symlink_to((folder / name).resolve())
    return links


def _extract(colmap: Any, work: Path, names: Sequence[str], camera: Camera | None, lens: str,
             feature_px: int, guess_px: float | None, report: Any) -> None:
    reader, options = colmap.ImageReaderOptions(), colmap.FeatureExtractionOptions()
    options.use_gpu, options.max_image_size = False, feature_px
    reader.camera_model = lens
    if camera is not None:
        reader.camera_model, params = camera_to_colmap(camera)
        reader.camera_params = ','.join(repr(float(value)) for value in params)
    elif guess_px is not None:
        width, height = read_size(work / 'images' / names[0])
        reader.camera_params = colmap.Camera.create_from_model_name(
            1, lens, guess_px, width, height).params_to_string()
    for start in range(0, len(names), _IMAGES_PER_CALL):
        colmap.extract_features(
            work / 'database.db', work / 'images',
            image_names=list(names[start:start + _IMAGES_PER_CALL]),
            camera_mode=colmap.CameraMode.SINGLE, reader_options=reader,
            extraction_options=options, device=colmap.Device.cpu)
        reader.existing_camera_id = 1  # of the first call: one camera took all images
        report(min(1.0, (start + _IMAGES_PER_CALL) / len(names)), 'features')


def _match(colmap: Any, work: Path, names: Sequence[str], pairs: Sequence[tuple[int, int]],
           report: Any) -> None:
    matching, geometry = colmap.FeatureMatchingOptions(), colmap.TwoViewGeometryOptions()
    matching.use_gpu, geometry.ransac.random_seed = False, _SEED
    listed, listing = work / 'pairs.txt', colmap.ImportedPairingOptions()
    listing.match_list_path = listed
    for start in range(0, len(pairs), _PAIRS_PER_CALL):
        some = pairs[start:start + _PAIRS_PER_CALL]
        write_atomically(listed, ''.join(f'{names[a]} {names[b]}\n' for a, b in some))
        colmap.match_image_pairs(work / 'database.db', matching_options=matching,
                                 pairing_options=listing, verification_options=geometry,
                                 device=colmap.Device.cpu)
        report(min(1.0, (start + _PAIRS_PER_CALL) / len(pairs)), 'matches')


def _map(colmap: Any, work: Path, keep_camera: bool, count: int, report: Any) -> dict[int, Any]:
    options, placed = colmap.IncrementalPipelineOptions(), 0
    options.random_seed, options.min_model_size = _SEED, min(10, max(2, count // 2))
    if keep_camera:
        options.ba_refine_focal_length = options.ba_refine_principal_point = False
        options.ba_refine_extra_params = False

    def on_next_image() -> None:
        nonlocal placed
        placed += 1
        report(min(1.0, placed / count), f'{placed} images placed')

    sparse = work / 'sparse'
    sparse.mkdir()
    found: dict[int, Any] = colmap.incremental_mapping(
        work / 'database.db', work / 'images', sparse, options=options,
        next_image_callback=on_next_image)
    return found
