# SPDX-License-Identifier: Apache-2.0
"""How the camera moves between images: odometry, an IMU, constant velocity."""
