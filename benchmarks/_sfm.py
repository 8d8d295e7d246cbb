# SPDX-License-Identifier: Apache-2.0
"""
The peer of a radiance map: SIFT points triangulated by COLMAP on given poses, and PnP.

This is what hloc and COLMAP's own image registration do. Build: SIFT of the training images,
matches verified by two-view geometry, tracks triangulated and their points (not the poses)
refined. Query: SIFT of the image, matched with the training images that share most of its
strongest features; pixels that match a pixel with a point give the pose by LO-RANSAC, and a
robust non-linear refinement. Lenses keep their distortion. Thermal images are stretched first.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
import time
from typing import Any, NamedTuple

PERCENTILES = 0.5, 99.5
CLIP, TILES = 4.0, 8  # of the local histogram equalisation
EVERY_PAIR_BELOW = 60  # training images; in larger sets each is matched with its neighbours
NEIGHBOURS = 20
RETRIEVED = 20  # training images that a query is matched with
STRONGEST = 400  # features by which they are chosen
RATIO, LARGEST_DISTANCE = 0.8, 0.7  # COLMAP's own
MAX_ERROR_PX = 12.0  # COLMAP's own, in images of FULL_PX pixels or more
FULL_PX, LEAST_ERROR_PX = 1600, 4.0
SEED = 0


class Features(NamedTuple):
    """SIFT of one image, the strongest first."""

    xy: Any  # (n, 2) pixels, centres at +0.5
    descriptors: Any  # (n, 128) float32 of length 1


class Indexed(NamedTuple):
    """Features of a training image, and the point (x y z) of each; NaN where there is none."""

    features: Features
    points: Any  # (n, 3)


class SfmMap:
    """A SIFT map of one modality."""

    def __init__(self, images: Sequence[Indexed], seconds: float, size_bytes: int, points: int,
                 error_px: float) -> None:
        """See `build`."""
        self.images, self.seconds, self.size_bytes = list(images), seconds, size_bytes
        self.points, self.error_px = points, error_px

    def localize(self, image: Any, camera: Any) -> tuple[Any, float]:
        """T_world_sensor of an 8-bit image, None where it is not found; and the seconds taken."""
        started = time.perf_counter()
        found = self._pose(detect(image), camera)
        return found, time.perf_counter() - started

    def _pose(self, query: Features, camera: Any) -> Any:
        import numpy as np

        from thermal_nerf_loc.geometry import se3

        pixels, points = [], []
        for k in self._retrieved(query):
            indexed = self.images[k]
            pairs = match(query, indexed.features)
            pairs = pairs[np.isfinite(indexed.points[pairs[:, 1], 0])]
            pixels.append(query.xy[pairs[:, 0]])
            points.append(indexed.points[pairs[:, 1]])
        both = np.unique(np.hstack([np.concatenate(pixels), np.concatenate(points)]), axis=0)
        if len(both) < 4:
            return None
        colmap = module()
        options = colmap.AbsolutePoseEstimationOptions()
        options.ransac.max_error = max(LEAST_ERROR_PX,
                                       MAX_ERROR_PX * min(1.0, max(camera.size) / FULL_PX))
        options.ransac.random_seed = SEED
        found = colmap.estimate_and_refine_absolute_pose(
            both[:, :2], both[:, 2:], colmap_camera(colmap, camera, 1), options,
            colmap.AbsolutePoseRefinementOptions())
        if found is None:
            return None
        return se3.inverse(np.vstack([found['cam_from_world'].matrix(), (0.0, 0.0, 0.0, 1.0)]))

    def _retrieved(self, query: Features) -> Any:
        """All images of a small set; else those that match most of the strongest features."""
        import numpy as np
        if len(self.images) <= EVERY_PAIR_BELOW:
            return range(len(self.images))
        few = strongest(query)
        votes = [len(match(few, strongest(one.features))) for one in self.images]
        return np.argsort(votes)[::-1][:RETRIEVED]


def module() -> Any:
    """The module pycolmap, or an error that says how to install it."""
    from thermal_nerf_loc.importers.images.structure_from_motion import require_pycolmap
    return require_pycolmap()


def build(work: Path, images: Sequence[tuple[Any, Any, Any]],
          report: Callable[[float, float, str], None]) -> SfmMap:
    """Map of posed images: 8-bit pixels, `Camera` and T_world_sensor of each; files in `work`."""
    from thermal_nerf_loc.io.images import write_png

    started, colmap = time.perf_counter(), module()
    colmap.set_random_seed(SEED)
    names = [f'{index:06d}.png' for index in range(len(images))]
    for name, (pixels, _, _) in zip(names, images):
        write_png(work / 'images' / name, pixels)
    report(0.05, 1.0, 'images written')
    extract(colmap, work, dict(zip(names, (camera for _, camera, _ in images))))
    report(0.3, 1.0, 'features')
    match_pairs(colmap, work, names, [T for _, _, T in images])
    report(0.7, 1.0, 'matches')
    with colmap.Database.open(work / 'database.db') as database:
        stored = {image.name: image for image in database.read_all_images()}
        posed = posed_model(colmap, [stored[name] for name in names], images)
        keypoints = [(database.read_keypoints(stored[name].image_id),
                      database.read_descriptors(stored[name].image_id)) for name in names]
    options = colmap.IncrementalPipelineOptions()
    options.random_seed = SEED
    (work / 'model').mkdir()
    model = colmap.triangulate_points(posed, work / 'database.db', work / 'images',
                                      work / 'model', options=options)
    report(1.0, 1.0, 'points')
    indexed = [indexed_image(model, stored[name].image_id, *both)
               for name, both in zip(names, keypoints)]
    seconds = time.perf_counter() - started
    return SfmMap(indexed, seconds, stored_bytes(work / 'model', indexed),
                  model.num_points3D(), model.compute_mean_reprojection_error())


def extract(colmap: Any, work: Path, cameras: Mapping[str, Any]) -> None:
    """SIFT by COLMAP, with the lens of each image."""
    from thermal_nerf_loc.io.datasets.colmap_model import camera_to_colmap

    options, by_camera = extraction_options(colmap), {}
    for name, camera in cameras.items():
        by_camera.setdefault(camera, []).append(name)
    for camera, names in by_camera.items():
        reader = colmap.ImageReaderOptions()
        reader.camera_model, params = camera_to_colmap(camera)
        reader.camera_params = ','.join(repr(float(value)) for value in params)
        colmap.extract_features(
            work / 'database.db', work / 'images', image_names=names,
            camera_mode=colmap.CameraMode.SINGLE, reader_options=reader,
            extraction_options=options, device=colmap.Device.cpu)


def extraction_options(colmap: Any) -> Any:
    """COLMAP's defaults, on the processor."""
    options = colmap.FeatureExtractionOptions()
    options.use_gpu = False
    return options


def match_pairs(colmap: Any, work: Path, names: Sequence[str], poses: Sequence[Any]) -> None:
    """Match every pair of a small set, else neighbours by their poses; verify each pair."""
    from itertools import combinations

    import numpy as np

    from thermal_nerf_loc.io.atomic_files import write_atomically
    from thermal_nerf_loc.mapping.camera_poses.feature_tracks import candidate_pairs

    pairs = (list(combinations(range(len(names)), 2)) if len(names) <= EVERY_PAIR_BELOW
             else candidate_pairs(np.stack(poses), NEIGHBOURS))
    write_atomically(work / 'pairs.txt',
                     ''.join(f'{names[a]} {names[b]}\n' for a, b in pairs))
    matching, verification = colmap.FeatureMatchingOptions(), colmap.TwoViewGeometryOptions()
    matching.use_gpu, verification.ransac.random_seed = False, SEED
    listing = colmap.ImportedPairingOptions()
    listing.match_list_path = work / 'pairs.txt'
    colmap.match_image_pairs(work / 'database.db', matching_options=matching,
                             pairing_options=listing, verification_options=verification,
                             device=colmap.Device.cpu)


def posed_model(colmap: Any, stored: Sequence[Any],
                images: Sequence[tuple[Any, Any, Any]]) -> Any:
    """A model without points that has the given poses and lenses."""
    from thermal_nerf_loc.geometry import se3

    model, known = colmap.Reconstruction(), set()
    for entry, (_, camera, T_world_sensor) in zip(stored, images):
        if entry.camera_id not in known:
            known.add(entry.camera_id)
            model.add_camera_with_trivial_rig(colmap_camera(colmap, camera, entry.camera_id))
        image = colmap.Image(name=entry.name, camera_id=entry.camera_id, image_id=entry.image_id)
        model.add_image_with_trivial_frame(
            image, colmap.Rigid3d(se3.inverse(T_world_sensor)[:3]))
    return model


def colmap_camera(colmap: Any, camera: Any, number: int) -> Any:
    """A `Camera` as COLMAP has it."""
    from thermal_nerf_loc.io.datasets.colmap_model import camera_to_colmap
    name, params = camera_to_colmap(camera)
    return colmap.Camera(camera_id=number, model=name, width=camera.width, height=camera.height,
                         params=list(params))


def indexed_image(model: Any, number: int, keypoints: Any, descriptors: Any) -> Indexed:
    """Features of a training image with the points of the model."""
    import numpy as np

    points = np.full((len(keypoints), 3), np.nan)
    for k, point in enumerate(model.images[number].points2D):
        if point.has_point3D():
            points[k] = model.points3D[point.point3D_id].xyz
    order = np.argsort(-np.hypot(keypoints[:, 2], keypoints[:, 4]))  # the scale of each
    found = as_features(keypoints, descriptors)
    return Indexed(Features(found.xy[order], found.descriptors[order]), points[order])


def stored_bytes(model: Path, images: Sequence[Indexed]) -> int:
    """The model's files, and 128 bytes for the descriptor of each feature."""
    return (sum(file.stat().st_size for file in model.iterdir())
            + 128 * sum(len(one.features.xy) for one in images))


def detect(image: Any) -> Features:
    """SIFT of one 8-bit image (h, w), as `extract` does it for files."""
    import numpy as np

    colmap = module()
    sift = colmap.FeatureExtractor.create(extraction_options(colmap), colmap.Device.cpu)
    keypoints, descriptors = sift.extract(colmap.Bitmap.from_array(image))
    table = colmap.keypoints_to_matrix(keypoints)
    order, found = np.argsort(-table[:, 2]), as_features(table, descriptors)
    return Features(found.xy[order], found.descriptors[order])


def as_features(keypoints: Any, descriptors: Any) -> Features:
    """COLMAP's bytes as unit vectors."""
    import numpy as np
    values = np.asarray(descriptors.data, dtype=np.float32).reshape(len(keypoints), 128)
    length = np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return Features(np.asarray(keypoints[:, :2], dtype=np.float64), values / length)


def strongest(features: Features) -> Features:
    """The features of the largest scales."""
    return Features(features.xy[:STRONGEST], features.descriptors[:STRONGEST])


def match(a: Features, b: Features) -> Any:
    """Indices (n, 2) of mutually nearest features that pass the ratio test (Lowe), as COLMAP."""
    import numpy as np
    import torch

    if len(a.xy) < 2 or len(b.xy) < 2:
        return np.empty((0, 2), dtype=np.int64)
    cosine = torch.from_numpy(a.descriptors) @ torch.from_numpy(b.descriptors).T
    nearest, forth = cosine.topk(2, dim=1)
    rows = torch.nonzero(distinct(nearest)).ravel()
    columns = forth[rows, 0]
    nearest, back = cosine[:, columns].topk(2, dim=0)
    good = distinct(nearest.T) & (back[0] == rows)
    return torch.stack([rows[good], columns[good]], dim=1).numpy()


def distinct(nearest: Any) -> Any:
    """Whether the best of two cosines (n, 2) is near, and nearer than the other by far."""
    first, second = nearest.clamp(-1.0, 1.0).arccos().T
    return (first < RATIO * second) & (first < LARGEST_DISTANCE)


def stretched(values: Any) -> Any:
    """Thermal values (h, w) as 8 bits of even contrast, as features need them (CLAHE)."""
    import cv2
    import numpy as np

    low, high = np.percentile(values, PERCENTILES)
    share = np.clip((values.astype(np.float32) - low) / max(high - low, 1e-6), 0.0, 1.0)
    return cv2.createCLAHE(CLIP, (TILES, TILES)).apply(np.rint(255.0 * share).astype(np.uint8))


def grey(colour: Any) -> Any:
    """Colours in [0, 1] (h, w, 3) as 8-bit grey."""
    import cv2
    import numpy as np
    return np.rint(255.0 * cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)).astype(np.uint8)
