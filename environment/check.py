# SPDX-License-Identifier: Apache-2.0
"""
Prove that an environment works: `check.py python` or `check.py ros`.

Prints one line of what was found; an import error or a wrong answer ends it with a traceback.
"""

import importlib
import platform
import sys

LIBRARIES = ('cv2', 'matplotlib', 'numba', 'numpy', 'rich', 'rosbags.rosbag2', 'safetensors.torch',
             'scipy.spatial', 'tifffile', 'torch', 'yaml', 'thermal_nerf_loc')
MESSAGES = ('diagnostic_msgs', 'geometry_msgs', 'nav_msgs', 'rosgraph_msgs', 'sensor_msgs',
            'std_msgs', 'tf2_msgs')


def check_python() -> str:
    """Import every library that the package uses."""
    for name in LIBRARIES:
        importlib.import_module(name)
    import torch
    from thermal_nerf_loc.field.native.library import instruction_set
    device = 'CUDA' if torch.cuda.is_available() else 'CPU'
    return (f'Python {platform.python_version()}, torch {torch.__version__} on {device}, '
            f'compiled kernels: {instruction_set() or "none, numba and torch serve"}')


def check_ros() -> str:
    """Send the messages that matter through their type support and back."""
    from rclpy.serialization import deserialize_message, serialize_message
    for name in MESSAGES:
        importlib.import_module(f'{name}.msg')
    for name in ('std_srvs.srv', 'lifecycle_msgs.srv'):
        importlib.import_module(name)
    from geometry_msgs.msg import PoseWithCovariance, TransformStamped
    from sensor_msgs.msg import Image
    from tf2_msgs.msg import TFMessage
    transform = TransformStamped(child_frame_id='base_link')
    pose = PoseWithCovariance()
    pose.covariance[35] = 0.25
    for message in (TFMessage(transforms=[transform]), Image(data=bytes(range(256))), pose):
        if deserialize_message(serialize_message(message), type(message)) != message:
            raise SystemExit(f'{type(message).__name__} came back changed from serialization')
    return f'rclpy from {importlib.import_module("rclpy").__path__[0]}'


if __name__ == '__main__':
    print({'python': check_python, 'ros': check_ros}[sys.argv[1]]())
