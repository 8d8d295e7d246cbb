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
        latitude, longitude = np.deg2rad([self.latitude_deg, self.longitude_deg])
        sin_lat, cos_lat = np.sin(latitude), np.cos(latitude)
        sin_lon, cos_lon = np.sin(longitude), np.cos(longitude)
        R_enu_ecef = np.array([[-sin_lon, cos_lon, 0.0],
                               [-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat],
                               [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat]])
        return np.asarray((ecef(geodetic) - ecef([list(self)])) @ R_enu_ecef.T)


def ecef(geodetic: ArrayLike) -> Array:
    """Latitudes, longitudes (deg) and heights (m) (n, 3) to earth-fixed metres (n, 3)."""
    latitude, longitude, height = np.asarray(geodetic, np.float64).T
    latitude, longitude = np.deg2rad(latitude), np.deg2rad(longitude)
    N = _A / np.sqrt(1.0 - _E2 * np.sin(latitude)**2)  # radius in the prime vertical
    return np.stack([(N + height) * np.cos(latitude) * np.cos(longitude),
                     (N + height) * np.cos(latitude) * np.sin(longitude),
                     (N * (1.0 - _E2) + height) * np.sin(latitude)], axis=-1)
