# SPDX-License-Identifier: Apache-2.0
"""
Exact ray casting and procedural shading of analytic solids, compiled by numba.

Imported only when a world is rendered. The compiled functions release the GIL, so that a plain
thread pool runs them in parallel. Arrays are packed by `world.py`.
"""

import math
from typing import Any

from numba import njit
import numpy as np

ROOM, BOX, SPHERE, CYLINDER = 0, 1, 2, 3
PLAIN, CHECKER, STRIPES, BRICKS, CELLS = 0, 1, 2, 3, 4

# Columns of the array of materials (n, 19), one row a face. A colour has three, grain has one each
# for coarse, medium and fine.
COLOUR, SECOND, PATTERN, SCALE_M, GRAIN, SEED, CELSIUS, TEXTURE_CELSIUS = 0, 3, 6, 7, 8, 11, 12, 13
TEXTURE_FREQUENCY, RISE_CELSIUS, PATTERN_CELSIUS, STUDS_CELSIUS, HUE = 14, 15, 16, 17, 18

_MIN_DISTANCE_M = 1e-6
_JIT: dict[str, Any] = {'cache': True, 'nogil': True, 'error_model': 'numpy'}


@njit(**_JIT)
def cast(origins, directions, kinds, shapes, distance, face, normal):  # type: ignore[no-untyped-def]
    """
    Nearest surface of each ray: its distance, its face row (6 a solid, -1: none), its normal.

    Normals point to the side that the ray comes from.
    """
    for i in range(origins.shape[0]):
        o = (origins[i, 0], origins[i, 1], origins[i, 2])
        d = (directions[i, 0], directions[i, 1], directions[i, 2])
        inverse = (1.0 / d[0], 1.0 / d[1], 1.0 / d[2])
        best, best_face, axis, side = np.inf, -1, 0, 1.0
        for k in range(kinds.shape[0]):
            if kinds[k] == ROOM or kinds[k] == BOX:
                t, a, s = _box(o, d, inverse, shapes, k, kinds[k] == ROOM)
            elif kinds[k] == SPHERE:
                t, a, s = _sphere(o, d, shapes, k), 0, 1.0
            else:
                t, a, s = _cylinder(o, d, shapes, k)
            if t < best:
                best, axis, side = t, a, s
                # the face row names the side of the solid, whichever way the normal points
                best_face = 6 * k + (2 * a + (1 if s > 0.0 else 0))
        distance[i], face[i] = best, best_face
        normal[i, 0] = normal[i, 1] = normal[i, 2] = 0.0
        if best_face < 0:
            continue
        k = best_face // 6
        g = shapes[k]
        if kinds[k] == SPHERE:
            for c in range(3):
                normal[i, c] = (o[c] + best * d[c] - g[c]) / g[3]
        elif kinds[k] == CYLINDER and side == 0.0:
            u, v = (axis + 1) % 3, (axis + 2) % 3
            normal[i, u] = (o[u] + best * d[u] - g[0]) / g[2]
            normal[i, v] = (o[v] + best * d[v] - g[1]) / g[2]
        else:
            normal[i, axis] = side


@njit(**_JIT)
def _box(o, d, inverse, shapes, k, inside):  # type: ignore[no-untyped-def]
    """Slab test; `inside`: of the inner faces. Returns distance, axis, sign of the normal."""
    near, far, near_axis, far_axis = -np.inf, np.inf, 0, 0
    for c in range(3):
        if d[c] == 0.0:
            if o[c] < shapes[k, c] or o[c] > shapes[k, 3 + c]:
                return np.inf, 0, 1.0
            continue
        a, b = (shapes[k, c] - o[c]) * inverse[c], (shapes[k, 3 + c] - o[c]) * inverse[c]
        if a > b:
            a, b = b, a
        if a > near:
            near, near_axis = a, c
        if b < far:
            far, far_axis = b, c
        if near > far:
            return np.inf, 0, 1.0
    t, axis = (far, far_axis) if inside else (near, near_axis)
    if t <= _MIN_DISTANCE_M:
        return np.inf, 0, 1.0
    return t, axis, (-1.0 if d[axis] > 0.0 else 1.0)


@njit(**_JIT)
def _sphere(o, d, shapes, k):  # type: ignore[no-untyped-def]
    b = c = 0.0
    for j in range(3):
        x = o[j] - shapes[k, j]
        b += x * d[j]
        c += x * x
    square = b * b - (c - shapes[k, 3] * shapes[k, 3])
    if square <= 0.0:
        return np.inf
    t = -b - math.sqrt(square)
    return t if t > _MIN_DISTANCE_M else np.inf


@njit(**_JIT)
def _cylinder(o, d, shapes, k):  # type: ignore[no-untyped-def]
    """Capped cylinder along an axis; normal sign 0 marks its curved side."""
    w, radius, low, high = int(shapes[k, 5]), shapes[k, 2], shapes[k, 3], shapes[k, 4]
    u, v = (w + 1) % 3, (w + 2) % 3
    x, y = o[u] - shapes[k, 0], o[v] - shapes[k, 1]
    a = d[u] * d[u] + d[v] * d[v]
    best, side = np.inf, 0.0
    if a > 0.0:
        b, c = x * d[u] + y * d[v], x * x + y * y - radius * radius
        square = b * b - a * c
        if square <= 0.0:
            return np.inf, w, 0.0
        t = (-b - math.sqrt(square)) / a
        z = o[w] + t * d[w]
        if t > _MIN_DISTANCE_M and low <= z <= high:
            best = t
    if d[w] != 0.0:
        t = ((low if d[w] > 0.0 else high) - o[w]) / d[w]
        p, q = x + t * d[u], y + t * d[v]
        if _MIN_DISTANCE_M < t < best and p * p + q * q <= radius * radius:
            best, side = t, (-1.0 if d[w] > 0.0 else 1.0)
    return best, w, side


@njit(**_JIT)
def shade_rgb(points, face, normal, kinds, shapes, materials, lamps, ambient, out):  # type: ignore[no-untyped-def]
    """Diffuse sRGB of surface points, the same from every side."""
    for i in range(points.shape[0]):
        if face[i] < 0:
            out[i, 0] = out[i, 1] = out[i, 2] = 0.0
            continue
        p, material = points[i], materials[face[i]]
        seed = int(material[SEED])
        share, tint = _pattern(p, face[i], normal[i], kinds, shapes, material)
        light = ambient
        for k in range(lamps.shape[0]):
            dx, dy, dz = lamps[k, 0] - p[0], lamps[k, 1] - p[1], lamps[k, 2] - p[2]
            square = dx * dx + dy * dy + dz * dz + 1e-9
            cosine = ((dx * normal[i, 0] + dy * normal[i, 1] + dz * normal[i, 2])
                      / math.sqrt(square))
            light += lamps[k, 3] * (0.5 + 0.5 * cosine) / (1.0 + 0.1 * square)
        grain = (1.0 + material[GRAIN] * (2.0 * _noise(p, 3.0, seed) - 1.0)
                 + material[GRAIN + 1] * (2.0 * _noise(p, 8.0, seed + 1) - 1.0))
        fine = material[GRAIN + 2] * (_noise(p, 20.0, seed + 2) - 0.5)
        for c in range(3):
            base = material[COLOUR + c] + share * (material[SECOND + c] - material[COLOUR + c])
            if tint > 0.0:  # random cells differ in hue as well
                base *= 1.0 + material[HUE] * (_hash(int(tint * 65536.0), c, 17, seed) - 0.5)
            value = light * (base * grain + fine)
            out[i, c] = min(max(value, 0.0), 1.0)


@njit(**_JIT)
def shade_celsius(points, face, normal, kinds, shapes, materials, spots, out):  # type: ignore[no-untyped-def]
    """Apparent temperature of surface points."""
    for i in range(points.shape[0]):
        if face[i] < 0:
            out[i] = 0.0
            continue
        p, material = points[i], materials[face[i]]
        seed = int(material[SEED]) + 101
        value = (material[CELSIUS] + material[RISE_CELSIUS] * p[2]
                 + material[TEXTURE_CELSIUS] * (1.4 * _noise(p, material[TEXTURE_FREQUENCY],
                                                             seed) - 0.7)
                 + material[TEXTURE_CELSIUS] * (0.6 * _noise(p, 3.1 * material[TEXTURE_FREQUENCY],
                                                             seed + 1) - 0.3))
        if material[PATTERN_CELSIUS] != 0.0:
            value += material[PATTERN_CELSIUS] * _pattern(p, face[i], normal[i], kinds, shapes,
                                                          material)[0]
        if material[STUDS_CELSIUS] != 0.0:
            u = _surface(p, face[i], normal[i], kinds, shapes)[0]
            studs = math.cos(2.0 * math.pi * u / 0.61)  # one every 61 cm
            value += material[STUDS_CELSIUS] * math.exp(8.0 * (studs - 1.0))
        for k in range(spots.shape[0]):
            dx, dy, dz = p[0] - spots[k, 0], p[1] - spots[k, 1], p[2] - spots[k, 2]
            value += spots[k, 4] * math.exp(
                -0.5 * (dx * dx + dy * dy + dz * dz) / (spots[k, 3] * spots[k, 3]))
        out[i] = value


@njit(**_JIT)
def _surface(p, face, normal, kinds, shapes):  # type: ignore[no-untyped-def]
    """Coordinates on a surface in metres; the second runs upwards on walls."""
    k = face // 6
    g = shapes[k]
    if kinds[k] == SPHERE:
        return math.atan2(p[1] - g[1], p[0] - g[0]) * g[3], p[2]
    if kinds[k] == CYLINDER:
        w = int(g[5])
        if abs(normal[w]) > 0.5:
            return p[(w + 1) % 3], p[(w + 2) % 3]
        return math.atan2(p[(w + 2) % 3] - g[1], p[(w + 1) % 3] - g[0]) * g[2], p[w]
    axis = (face % 6) // 2
    if axis == 0:
        return p[1], p[2]
    return (p[0], p[2]) if axis == 1 else (p[0], p[1])


@njit(**_JIT)
def _pattern(p, face, normal, kinds, shapes, material):  # type: ignore[no-untyped-def]
    """Share of the second colour, and a cell's own random number (0: none)."""
    kind = int(material[PATTERN])
    if kind == PLAIN:
        return 0.0, 0.0
    u, v = _surface(p, face, normal, kinds, shapes)
    u, v, seed = u / material[SCALE_M], v / material[SCALE_M], int(material[SEED])
    if kind == CHECKER:
        return float((math.floor(u) + math.floor(v)) % 2), 0.0
    if kind == STRIPES:
        return (1.0 if u - math.floor(u) < 0.4 else 0.0), 0.0
    if kind == BRICKS:
        row = math.floor(2.0 * v)
        x = u + 0.5 * (row % 2)
        mortar = (x - math.floor(x) < 0.06) or (2.0 * v - row < 0.12)
        one = _hash(int(math.floor(x)), int(row), face, seed)
        return (1.0 if mortar else 0.25 * one), 0.0
    one = _hash(int(math.floor(u)), int(math.floor(v)), face, seed)
    return one, 0.001 + 0.998 * _hash(int(math.floor(v)), int(math.floor(u)), face, seed + 5)


@njit(**_JIT)
def _hash(x, y, z, seed):  # type: ignore[no-untyped-def]
    """Integers to [0, 1]."""
    n = (x * 374761393 + y * 668265263 + z * 2147483647 + seed * 974711) & 0xffffffff
    n = ((n ^ (n >> 13)) * 1274126177) & 0xffffffff
    return ((n ^ (n >> 16)) & 0xffff) / 65535.0


@njit(**_JIT)
def _noise(p, frequency, seed):  # type: ignore[no-untyped-def]
    """Value noise in [0, 1]: smooth between random numbers on a grid."""
    x, y, z = p[0] * frequency, p[1] * frequency, p[2] * frequency
    i, j, k = math.floor(x), math.floor(y), math.floor(z)
    fx, fy, fz = x - i, y - j, z - k
    fx, fy, fz = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), fz * fz * (3 - 2 * fz)
    total = 0.0
    for a in range(2):
        for b in range(2):
            for c in range(2):
                weight = ((fx if a else 1 - fx) * (fy if b else 1 - fy) * (fz if c else 1 - fz))
                total += weight * _hash(int(i) + a, int(j) + b, int(k) + c, seed)
    return total
