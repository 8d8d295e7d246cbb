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

For speed, all neighbours go down the image row by row, so that what they share stays in the cache:
sums over the columns of both windows slide downwards, and are summed across. Loops are short, over
rows that lie together, as only such are compiled to vector instructions. `reference.sweep` is the
same, plainly.
"""

import numba as nb
import numpy as np

_OPTIONS = {'cache': True, 'fastmath': True, 'nogil': True, 'error_model': 'numpy'}
_UNSEEN = np.float32(-1.0)  # correlation with a neighbour that does not show the point
COST_STEPS = np.float32(65535.0)  # 16 bits; the cost is 1 - correlation, from 0 to 1
SMALL, LARGE = 2, 4  # radii of the windows: 5 and 9 pixels wide
_ROWS = 2 * LARGE + 2  # of a neighbour that are kept: those of the large window, and one that left
_BLOCK = 8  # planes that are written to the cost volume at once


@nb.njit(**_OPTIONS)
def padded(image):  # type: ignore[no-untyped-def]
    """The image with its border repeated, as wide as the large window reaches."""
    height, width = image.shape
    out = np.empty((height + 2 * LARGE, width + 2 * LARGE), np.float32)
    for y in range(len(out)):
        row = image[min(max(y - LARGE, 0), height - 1)]
        for x in range(width):
            out[y, x + LARGE] = row[x]
        _repeat_ends(out[y])
    return out


@nb.njit(**_OPTIONS)
def _repeat_ends(row):  # type: ignore[no-untyped-def]
    last = len(row) - 1
    for x in range(LARGE):
        row[x] = row[LARGE]
        row[last - x] = row[last - LARGE]


@nb.njit(**_OPTIONS)
def window_statistics(image, size, noise):  # type: ignore[no-untyped-def]
    """Mean and 1 / standard deviation, noise included, of the windows of a padded image."""
    height, width = image.shape[0] - 2 * LARGE, image.shape[1] - 2 * LARGE
    mean, inverse = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    count = np.float32((2 * size + 1)**2)
    for y in range(height):
        for x in range(width):
            total, squares = np.float32(0.0), np.float32(0.0)
            for j in range(LARGE - size, LARGE + size + 1):
                for i in range(LARGE - size, LARGE + size + 1):
                    value = image[y + j, x + i]
                    total += value
                    squares += value * value
            m = total / count
            mean[y, x] = m
            inverse[y, x] = np.float32(1.0) / np.sqrt(max(squares / count - m * m,
                                                          np.float32(0.0)) + noise)
    return mean, inverse


@nb.njit(**_OPTIONS)
def _locate(A, b, q, y, size, ramp, u, v, at, hidden):  # type: ignore[no-untyped-def]
    """Where row y lies in a neighbour: first of four pixels, fractions; -2 where it is outside."""
    stride = np.float32(size[1])
    last_x, last_y = np.float32(size[1] - 1.001), np.float32(size[0] - 1.001)
    d0, d1, d2 = np.float32(A[0, 0]), np.float32(A[1, 0]), np.float32(A[2, 0])
    half, zero, one, least = (np.float32(0.5), np.float32(0.0), np.float32(1.0),
                              np.float32(1e-6))
    p0 = np.float32(A[0, 0] * 0.5 + A[0, 1] * (y + 0.5) + A[0, 2] + q * b[0])
    p1 = np.float32(A[1, 0] * 0.5 + A[1, 1] * (y + 0.5) + A[1, 2] + q * b[1])
    p2 = np.float32(A[2, 0] * 0.5 + A[2, 1] * (y + 0.5) + A[2, 2] + q * b[2])
    for x in range(len(u)):
        over = one / max(p2 + ramp[x] * d2, least)
        u[x] = (p0 + ramp[x] * d0) * over - half
        v[x] = (p1 + ramp[x] * d1) * over - half
    for x in range(len(u)):
        off = max(max(-u[x], u[x] - last_x), max(-v[x], v[x] - last_y))
        outside = (off > half) | (p2 + ramp[x] * d2 < least)
        hidden[x] = np.float32(-2.0) if outside else zero
    for x in range(len(u)):
        s, t = min(max(u[x], zero), last_x), min(max(v[x], zero), last_y)
        i, j = np.floor(s), np.floor(t)
        u[x] = s - i
        v[x] = t - j
        at[x] = np.int32(j * stride + i)


@nb.njit(**_OPTIONS)
def _resample(flat, down, at, u, v, row):  # type: ignore[no-untyped-def]
    """Bilinear, within a padded row. Unsigned indices: signed ones might count from the end."""
    one, border = np.uintp(1), np.uintp(LARGE)
    for x in range(len(at)):
        k = np.uintp(at[x])
        top = flat[k] + u[x] * (flat[k + one] - flat[k])
        bottom = flat[k + down] + u[x] * (flat[k + down + one] - flat[k + down])
        row[np.uintp(x) + border] = top + v[x] * (bottom - top)
    _repeat_ends(row)


@nb.njit(**_OPTIONS)
def _slide(sums, a_new, b_new, a_old, b_old):  # type: ignore[no-untyped-def]
    """Move the column sums of b, b^2 and a b down: a row enters the window, another leaves."""
    s, ss, sab = sums[0], sums[1], sums[2]
    for x in range(len(s)):
        s[x] += b_new[x] - b_old[x]
    for x in range(len(s)):
        ss[x] += b_new[x] * b_new[x] - b_old[x] * b_old[x]
    for x in range(len(s)):
        sab[x] += a_new[x] * b_new[x] - a_old[x] * b_old[x]


@nb.njit(**_OPTIONS)
def _across_small(sums, out):  # type: ignore[no-untyped-def]
    width = len(out)
    s0, s1, s2, s3, s4 = (sums[2:width + 2], sums[3:width + 3], sums[4:width + 4],
                          sums[5:width + 5], sums[6:width + 6])
    for x in range(width):
        out[x] = s0[x] + s1[x] + s2[x] + s3[x] + s4[x]


@nb.njit(**_OPTIONS)
def _across_large(sums, pairs, out):  # type: ignore[no-untyped-def]
    width = len(out)
    following = sums[1:]
    for x in range(width + 7):
        pairs[x] = sums[x] + following[x]
    p0, p2, p4, p6, s8 = (pairs[:width], pairs[2:width + 2], pairs[4:width + 4],
                          pairs[6:width + 6], sums[8:width + 8])
    for x in range(width):
        out[x] = p0[x] + p2[x] + p4[x] + p6[x] + s8[x]


@nb.njit(**_OPTIONS)
def _correlate(sums, mean, inverse, size, noise, work, pairs, out):  # type: ignore[no-untyped-def]
    """Add half the ZNCC of a row of windows to `out`."""
    if size == SMALL:
        for k in range(3):
            _across_small(sums[k], work[k])
    else:
        for k in range(3):
            _across_large(sums[k], pairs, work[k])
    s, ss, sab = work[0], work[1], work[2]
    over, half = np.float32(1.0 / (2 * size + 1)**2), np.float32(0.5)
    for x in range(len(out)):
        m = s[x] * over
        ss[x] = half * over * inverse[x] / np.sqrt(max(ss[x] * over - m * m, np.float32(0.0))
                                                   + noise)
    for x in range(len(out)):
        out[x] += (sab[x] - s[x] * mean[x]) * ss[x]


@nb.njit(**_OPTIONS)
def _insert(score, hidden, best):  # type: ignore[no-untyped-def]
    """Sort a row of correlations into the best ones so far."""
    for x in range(len(score)):
        score[x] = max(score[x] + hidden[x], _UNSEEN)
    for m in range(len(best)):
        row = best[m]
        for x in range(len(score)):
            higher, lower = max(row[x], score[x]), min(row[x], score[x])
            row[x] = higher
            score[x] = lower


@nb.njit(**_OPTIONS)
def _cost_of(best, out):  # type: ignore[no-untyped-def]
    """1 - the mean of the best correlations of a row, as 16 bits; overwrites the first of them."""
    total = best[0]
    for m in range(1, len(best)):
        row = best[m]
        for x in range(len(out)):
            total[x] += row[x]
    one, zero, over = np.float32(1.0), np.float32(0.0), np.float32(1.0 / len(best))
    for x in range(len(out)):
        out[x] = np.uint16(min(max(one - total[x] * over, zero), one) * COST_STEPS)


@nb.njit(**_OPTIONS)
def sweep(reference, images, starts, sizes, A, b, inverse_depths, noise, cost):  # type: ignore[no-untyped-def]
    """
    Fill `cost` (h, w, planes) with 1 - the mean of the best half of the correlations, 16 bits.

    Neighbours lie in `images`, one after the other: `starts` and `sizes` (n, 2: height, width).
    """
    height, width, planes = cost.shape
    neighbours, wide = len(starts), width + 2 * LARGE
    a = padded(reference)
    mean_small, inverse_small = window_statistics(a, SMALL, noise)
    mean_large, inverse_large = window_statistics(a, LARGE, noise)
    rows = np.empty((neighbours, _ROWS, wide), np.float32)
    hidden = np.empty((neighbours, _ROWS, width), np.float32)
    small = np.empty((neighbours, 3, wide), np.float32)
    large = np.empty((neighbours, 3, wide), np.float32)
    best = np.empty(((neighbours + 1) // 2, width), np.float32)
    u, v, score = (np.empty(width, np.float32), np.empty(width, np.float32),
                   np.empty(width, np.float32))
    at, ramp = np.empty(width, np.int32), np.arange(width).astype(np.float32)
    work, pairs = np.empty((3, width), np.float32), np.empty(wide, np.float32)
    nothing = np.zeros(wide, np.float32)
    block = np.empty((_BLOCK, height, width), np.uint16)
    for k in range(planes):
        small[:] = 0.0
        large[:] = 0.0
        for r in range(height + 2 * LARGE):  # the padded row that enters the large window
            best[:] = _UNSEEN
            for n in range(neighbours):
                row, y = rows[n, r % _ROWS], r - LARGE
                if r == 0 or 0 < y < height:
                    end = starts[n] + sizes[n, 0] * sizes[n, 1]
                    _locate(A[n], b[n], inverse_depths[k], max(y, 0), sizes[n], ramp, u, v, at,
                            hidden[n, r % _ROWS])
                    _resample(images[starts[n]:end], np.uintp(sizes[n, 1]), at, u, v, row)
                else:
                    row[:] = rows[n, (r - 1) % _ROWS]
                    hidden[n, r % _ROWS] = hidden[n, (r - 1) % _ROWS]
                gone = r - 2 * LARGE - 1
                _slide(large[n], a[r], row, a[max(gone, 0)],
                       rows[n, gone % _ROWS] if gone >= 0 else nothing)
                new, gone = r - LARGE + SMALL, r - LARGE - SMALL - 1
                if new >= 0:
                    _slide(small[n], a[new], rows[n, new % _ROWS], a[max(gone, 0)],
                           rows[n, gone % _ROWS] if gone >= 0 else nothing)
                y = r - 2 * LARGE
                if y >= 0:
                    score[:] = 0.0
                    _correlate(small[n], mean_small[y], inverse_small[y], SMALL, noise, work,
                               pairs, score)
                    _correlate(large[n], mean_large[y], inverse_large[y], LARGE, noise, work,
                               pairs, score)
                    _insert(score, hidden[n, (r - LARGE) % _ROWS], best)
            if r >= 2 * LARGE:
                _cost_of(best, block[k % _BLOCK, r - 2 * LARGE])
        if k % _BLOCK == _BLOCK - 1 or k == planes - 1:
            first = k - k % _BLOCK
            for y in range(height):
                for x in range(width):
                    for i in range(first, k + 1):
                        cost[y, x, i] = block[i - first, y, x]
