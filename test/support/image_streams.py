# SPDX-License-Identifier: Apache-2.0
"""Streams of small images with their calibration and odometry, for a frame synchronizer."""

from types import SimpleNamespace

import numpy as np

from thermal_nerf_loc.geometry import se3
from thermal_nerf_loc.geometry.camera import Camera
from thermal_nerf_loc.io.bags.messages import encode_image, info_from_camera
from thermal_nerf_loc.io.bags.transform_tree import TransformBuffer
from thermal_nerf_loc.sensing.thermal import LinearRadiometry
from thermal_nerf_loc.tracking.frame_synchronizer import FrameSynchronizer, SynchronizerConfig

MS = 10**6
CAMERA = Camera.from_fov(8, 6, 60.0)
T_BASE_RGB = se3.exp([0.1, 0.0, 0.3, 0.4, -0.2, 0.1])
T_BASE_THERMAL = se3.exp([0.1, 0.05, 0.3, 0.4, -0.25, 0.1])
VELOCITY = np.array([0.5, 0.0, 0.1, 0.0, 0.0, 0.8])  # in the body, m/s and rad/s


def header(stamp_ns, modality):
    return SimpleNamespace(stamp=SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9),
                           frame_id=f'{modality}_optical')


def image(modality, stamp_ns, value=None, size=(6, 8)):
    value = stamp_ns // MS % 200 if value is None else value
    pixels = (np.full((*size, 3), value, np.uint8) if modality == 'rgb'
              else np.full(size, 29315 + value, np.uint16))
    encoding = 'rgb8' if modality == 'rgb' else '16UC1'
    step, data = encode_image(pixels, encoding)
    return SimpleNamespace(header=header(stamp_ns, modality), height=size[0], width=size[1],
                           encoding=encoding, step=step, is_bigendian=0, data=data)


def camera_info(modality, stamp_ns=0):
    roi = SimpleNamespace(width=0, height=0, x_offset=0, y_offset=0)
    return SimpleNamespace(header=header(stamp_ns, modality), width=CAMERA.width,
                           height=CAMERA.height, binning_x=0, binning_y=0, roi=roi,
                           **info_from_camera(CAMERA)._asdict())


def odometry(stamp_ns):
    return se3.exp(VELOCITY * stamp_ns / 1e9)


def make_synchronizer(odometry_until_ms=0, infos=('rgb', 'thermal'), **config):
    tf = TransformBuffer()
    tf.set_transform('base_link', 'rgb_optical', T_BASE_RGB, 0, static=True)
    tf.set_transform('base_link', 'thermal_optical', T_BASE_THERMAL, 0, static=True)
    for ms in range(0, odometry_until_ms + 1, 10):
        tf.set_transform('odom', 'base_link', odometry(ms * MS), ms * MS)
    synchronizer = FrameSynchronizer(SynchronizerConfig(**config), tf, ('rgb', 'thermal'),
                                     LinearRadiometry(0.01, -273.15))
    for modality in infos:
        synchronizer.add_camera_info(modality, camera_info(modality))
    return synchronizer


def feed(synchronizer, *events):
    for modality, ms in events:
        synchronizer.add_image(modality, image(modality, ms * MS), ms * MS)


def play(synchronizer, *events):
    """Add each image and take the frames that are complete, as a replay does."""
    found = []
    for event in events:
        feed(synchronizer, event)
        found += drain(synchronizer)
    return found


def drain(synchronizer, now_ms=10**6, newest=False):
    found = []
    while (robot_frame := synchronizer.next_frame(now_ms * MS, newest)) is not None:
        found.append(robot_frame)
    return found
