# SPDX-License-Identifier: Apache-2.0
"""
Plane sweep: how well the neighbours of a view agree with it, at every pixel and depth.

A plane parallel to the image, at inverse depth q, maps the pixels x of a view into a neighbour:

    x' ~ A x + q b,   A = K' R K^-1,  b = K' t    (R, t: view to neighbour; Collins, CVPR 1996)

The neighbour is resampled there and compared by zero-mean normalised cross-correlation (ZNCC) in a
small and a large window: values of two cameras, or of one that drifts, differ by gain and offset,
and their correlation does not mind. Noise is part of the variances, so that flat walls correlate
little rather than at random. A point hidden from some neighbours is seen by others: the best half
of the correlations counts (Kang et al., CVPR 2001).
"""

import numba as nb
import numpy as np

_OPTIONS = {'cache': True, 'fastmath': True, 'nogil': True}
_UNSEEN = np.float32(-1.0)  # correlation with a neighbour that does not show the point
COST_STEPS = np.float32(65535.0)  # 16 bits; the cost is 1 - correlation, from 0 to 1


@nb.njit(**_OPTIONS)
def padded(image, radius):  # type: ignore[no-untyped-def]
    """The image with its border repeated `radius` times."""
    height, width = image.shape
    out = np.empty((height + 2 * radius, width + 2 * radius), np.float32)
    for y in range(height):
        for x in range(width):
            out[y + radius, x + radius] = image[y, x]
    repeat_border(out, radius)
    return out


@nb.njit(**_OPTIONS)
def repeat_border(out, radius):  # type: ignore[no-untyped-def]
    """Fill a border of `radius` from the pixels within."""
    height, width = out.shape[0] - 2 * radius, out.shape[1] - 2 * radius
    for y in range(radius, height + radius):
        for x in range(radius):
            out[y, x] = out[y, radius]
            out[y, radius + width + x] = out[y, radius + width - 1]
    for y in range(radius):
        out[y, :] = out[radius, :]
        out[radius + height + y, :] = out[radius + height - 1, :]


@nb.njit(**_OPTIONS)
def warp(image, A, b, q, radius, out, seen):  # type: ignore[no-untyped-def]
    """Resample a neighbour on the plane q; `seen` (h, w) is 0 within its image, else -2."""
    height, width = seen.shape
    stride = np.int32(image.shape[1])
    one, down = np.uintp(1), np.uintp(stride)
    last_x, last_y = np.float32(stride - 1.001), np.float32(image.shape[0] - 1.001)
    flat = image.reshape(-1)
    u, v = np.empty(width, np.float32), np.empty(width, np.float32)
    d0, d1, d2 = np.float32(A[0, 0]), np.float32(A[1, 0]), np.float32(A[2, 0])
    half, zero, least = np.float32(0.5), np.float32(0.0), np.float32(1e-6)
    for y in range(height):
        row, marks = out[y + radius], seen[y]
        p0 = np.float32(A[0, 0] * 0.5 + A[0, 1] * (y + 0.5) + A[0, 2] + q * b[0])
        p1 = np.float32(A[1, 0] * 0.5 + A[1, 1] * (y + 0.5) + A[1, 2] + q * b[1])
        p2 = np.float32(A[2, 0] * 0.5 + A[2, 1] * (y + 0.5) + A[2, 2] + q * b[2])
        for x in range(width):
            z = max(p2 + np.float32(x) * d2, least)
            u[x] = (p0 + np.float32(x) * d0) / z - half
            v[x] = (p1 + np.float32(x) * d1) / z - half
        for x in range(width):
            off = max(max(-u[x], u[x] - last_x), max(-v[x], v[x] - last_y))
            hidden = (off > half) | (p2 + np.float32(x) * d2 < least)
            marks[x] = np.float32(-2.0) if hidden else zero
        for x in range(width):
            s, t = min(max(u[x], zero), last_x), min(max(v[x], zero), last_y)
            i, j = np.int32(s), np.int32(t)
            fu, fv = s - np.float32(i), t - np.float32(j)
            at = np.uintp(j * stride + i)
            top = flat[at] + fu * (flat[at + one] - flat[at])
            bottom = flat[at + down] + fu * (flat[at + down + one] - flat[at + down])
            row[x + radius] = top + fv * (bottom - top)
    repeat_border(out, radius)


@nb.njit(**_OPTIONS)
def window_statistics(image, radius, size, noise):  # type: ignore[no-untyped-def]
    """Mean and 1 / standard deviation, noise included, of the window around each pixel."""
    height, width = image.shape[0] - 2 * radius, image.shape[1] - 2 * radius
    mean, inverse = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    count = np.float32((2 * size + 1)**2)
    for y in range(height):
        for x in range(width):
            total, squares = np.float32(0.0), np.float32(0.0)
            for j in range(radius - size, radius + size + 1):
                for i in range(radius - size, radius + size + 1):
                    value = image[y + j, x + i]
                    total += value
                    squares += value * value
            m = total / count
            mean[y, x] = m
            inverse[y, x] = np.float32(1.0) / np.sqrt(max(squares / count - m * m,
                                                          np.float32(0.0)) + noise)
    return mean, inverse


@nb.njit(inline='always')
def _add_row(a, b, sums, sign):  # type: ignore[no-untyped-def]
    """Add a row of b, b^2 and a b to the column sums; one loop each, so that they are vectors."""
    s, ss, sab = sums[0], sums[1], sums[2]
    for x in range(len(a)):
        s[x] += sign * b[x]
    for x in range(len(a)):
        ss[x] += sign * b[x] * b[x]
    for x in range(len(a)):
        sab[x] += sign * a[x] * b[x]


@nb.njit(inline='always')
def _across(sums, size, out):  # type: ignore[no-untyped-def]
    """Sums of 5 (size 2) or 9 (size 4) neighbours in a row."""
    width = len(out)
    s0, s1, s2, s3, s4 = (sums[:width], sums[1:width + 1], sums[2:width + 2], sums[3:width + 3],
                          sums[4:width + 4])
    if size == 2:
        for x in range(width):
            out[x] = s0[x] + s1[x] + s2[x] + s3[x] + s4[x]
    else:
        s5, s6, s7, s8 = (sums[5:width + 5], sums[6:width + 6], sums[7:width + 7],
                          sums[8:width + 8])
        for x in range(width):
            out[x] = s0[x] + s1[x] + s2[x] + s3[x] + s4[x]
        for x in range(width):
            out[x] += s5[x] + s6[x] + s7[x] + s8[x]


@nb.njit(**_OPTIONS)
def correlate(a, b, mean, inverse, radius, size, noise, out, first):  # type: ignore[no-untyped-def]
    """
    Add half the ZNCC of windows of 2 size + 1 pixels to `out` (h, w); `first` overwrites it.

    Sums of columns slide downwards.
    """
    height, width = out.shape
    offset = radius - size
    over, half = np.float32(1.0 / (2 * size + 1)**2), np.float32(0.5)
    one, zero = np.float32(1.0), np.float32(0.0)
    sums = np.zeros((3, a.shape[1]), np.float32)
    t, tt, tab = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width,
                                                                                   np.float32)
    for y in range(2 * size):
        _add_row(a[y + offset], b[y + offset], sums, one)
    for y in range(height):
        top, bottom = y + offset, y + offset + 2 * size
        _add_row(a[bottom], b[bottom], sums, one)
        _across(sums[0, offset:], size, t)
        _across(sums[1, offset:], size, tt)
        _across(sums[2, offset:], size, tab)
        means, inverses, scores = mean[y], inverse[y], out[y]
        for x in range(width):
            m = t[x] * over
            tt[x] = half * inverses[x] / np.sqrt(max(tt[x] * over - m * m, zero) + noise)
        if first:
            for x in range(width):
                scores[x] = (tab[x] * over - t[x] * over * means[x]) * tt[x]
        else:
            for x in range(width):
                scores[x] += (tab[x] * over - t[x] * over * means[x]) * tt[x]
        _add_row(a[top], b[top], sums, -one)


@nb.njit(**_OPTIONS)
def sweep(reference, images, starts, sizes, A, b, inverse_depths, noise, small, large, cost):  # type: ignore[no-untyped-def]
    """
    Fill `cost` (h, w, planes) with 1 - the mean of the best half of the correlations, 16 bits.

    Neighbours lie in `images`, one after the other: `starts` and `sizes` (n, 2: height, width).
    """
    height, width, planes = cost.shape
    neighbours = len(starts)
    kept = (neighbours + 1) // 2
    a = padded(reference, large)
    mean_small, inverse_small = window_statistics(a, large, small, noise)
    mean_large, inverse_large = window_statistics(a, large, large, noise)
    warped = np.empty_like(a)
    seen, score = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    best = np.empty((kept, height, width), np.float32)
    one, zero = np.float32(1.0), np.float32(0.0)
    for k in range(planes):
        best[:] = _UNSEEN
        for n in range(neighbours):
            image = images[starts[n]:starts[n] + sizes[n, 0] * sizes[n, 1]].reshape(
                (sizes[n, 0], sizes[n, 1]))
            warp(image, A[n], b[n], inverse_depths[k], large, warped, seen)
            correlate(a, warped, mean_small, inverse_small, large, small, noise, score, True)
            correlate(a, warped, mean_large, inverse_large, large, large, noise, score,
                      False)
            for y in range(height):
                marks, scores = seen[y], score[y]
                for x in range(width):
                    scores[x] = max(scores[x] + marks[x], _UNSEEN)
                for m in range(kept):
                    row = best[m, y]
                    for x in range(width):
                        higher, lower = max(row[x], scores[x]), min(row[x], scores[x])
                        row[x] = higher
                        scores[x] = lower
        over = one / np.float32(kept)
        for y in range(height):
            total = score[y]
            for x in range(width):
                total[x] = zero
            for m in range(kept):
                row = best[m, y]
                for x in range(width):
                    total[x] += row[x]
            for x in range(width):
                value = one - total[x] * over
                cost[y, x, k] = np.uint16(min(max(value, zero), one) * COST_STEPS)
