# SPDX-License-Identifier: Apache-2.0
"""Geodetic positions (WGS 84) in a local frame of east, north and up (ENU), in metres."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_A, _F = 6378137.0, 1.0 / 298.257223563  # WGS 84: equatorial radius (m), flattening
_E2 = _F * (2.0 - _F)  # eccentricity squared


class GeoAnchor(NamedTuple):
    """Where the origin of an ENU frame lies: x east, y north, z up."""

    latitude_deg: float
    longitude_deg: float
    height_m: float  # as the camera wrote it: above the ellipsoid, or above the sea

    def enu(self, geodetic: ArrayLike) -> Array:
        """Latitudes, longitudes (deg) and heights (m) (n, 3) to metres (n, 3)."""
        return np.asarray((ecef(geodetic) - ecef([list(self)])) @ self._R_enu_ecef().T)

    def geodetic(self, enu: ArrayLike) -> Array:
        """Metres (n, 3) to latitudes, longitudes (deg) and heights (m) (n, 3)."""
        return geodetic(ecef([list(self)]) + np.asarray(enu, np.float64) @ self._R_enu_ecef())

    def _R_enu_ecef(self) -> Array:
        latitude, longitude = np.deg2rad([self.latitude_deg, self.longitude_deg])
        sin_lat, cos_lat = np.sin(latitude), np.cos(latitude)
        sin_lon, cos_lon = np.sin(longitude), np.cos(longitude)
        return np.array([[-sin_lon, cos_lon, 0.0],
                         [-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat],
                         [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat]])


def ecef(geodetic: ArrayLike) -> Array:
    """Latitudes, longitudes (deg) and heights (m) (n, 3) to earth-fixed metres (n, 3)."""
    latitude, longitude, height = np.asarray(geodetic, np.float64).T
    latitude, longitude = np.deg2rad(latitude), np.deg2rad(longitude)
    N = _A / np.sqrt(1.0 - _E2 * np.sin(latitude)**2)  # radius in the prime vertical
    return np.stack([(N + height) * np.cos(latitude) * np.cos(longitude),
                     (N + height) * np.cos(latitude) * np.sin(longitude),
                     (N * (1.0 - _E2) + height) * np.sin(latitude)], axis=-1)


def geodetic(earth_fixed: ArrayLike) -> Array:
    """Earth-fixed metres (n, 3) to latitudes, longitudes (deg) and heights (m) (n, 3)."""
    x, y, z = np.asarray(earth_fixed, np.float64).T
    across = np.hypot(x, y)
    latitude = np.arctan2(z, across * (1.0 - _E2))
    height = np.zeros_like(latitude)
    for _ in range(5):  # converges to less than a micrometre near the ground
        N = _A / np.sqrt(1.0 - _E2 * np.sin(latitude)**2)
        # of the two the one that does not divide by nearly nothing
        height = np.where(np.abs(latitude) < np.pi / 4, across / np.maximum(
            np.cos(latitude), 1e-3) - N, z / np.where(latitude == 0.0, 1.0, np.sin(latitude))
            - N * (1.0 - _E2))
        latitude = np.arctan2(z, across * (1.0 - _E2 * N / (N + height)))
    return np.stack([np.rad2deg(latitude), np.rad2deg(np.arctan2(y, x)), height], axis=-1)
