# SPDX-License-Identifier: Apache-2.0
"""A monocular RGB depth network given as an ONNX file."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.atomic_files import read_bytes

# What nearly all such networks were trained with (ImageNet).
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_PATCH_PX = 14  # of vision transformers: sizes that a network leaves open are multiples of it


class OnnxDepth:
    """Called with an RGB image (h, w, 3) in [0, 1]; what comes back is what the network gives."""

    def __init__(self, path: Path) -> None:
        """Load it; one input (1, 3, h, w), the first output (1, h, w) or (1, 1, h, w)."""
        try:
            import onnxruntime
        except ImportError:
            raise InputError('an ONNX teacher needs onnxruntime', where=path,
                             hint="pip install 'thermal_nerf_loc[onnx]'") from None
        self.path, data = path, read_bytes(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised
        try:
            self._session: Any = onnxruntime.InferenceSession(
                data, options, providers=['CPUExecutionProvider'])
        except Exception as error:  # its own exceptions have no common base
            raise InputError('is no ONNX network that can be run', where=path,
                             got=' '.join(str(error).split())[:200]) from None
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if inputs else []
        if len(inputs) != 1 or len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
            raise InputError('ONNX network reads no RGB image', where=path,
                             expected='one input (1, 3, height, width)',
                             got=', '.join(f'{i.name} {i.shape}' for i in inputs) or 'no input')
        self._name, self._shape = inputs[0].name, shape

    def __call__(self, rgb: NDArray[np.float32]) -> NDArray[np.float32]:
        """Depth, or what the network has for it (h, w)."""
        height, width = rgb.shape[:2]
        rows, columns = (side if isinstance(side, int) else -(-given // _PATCH_PX) * _PATCH_PX
                         for side, given in zip(self._shape[2:], (height, width)))
        small = cv2.resize(rgb, (columns, rows), interpolation=cv2.INTER_CUBIC)
        batch = ((small - _MEAN) / _STD).transpose(2, 0, 1)[None].astype(np.float32)
        try:
            out = np.asarray(self._session.run(None, {self._name: batch})[0], np.float32)
        except Exception as error:  # as above
            raise InputError('ONNX network fails', where=self.path,
                             got=' '.join(str(error).split())[:200]) from None
        out = out.reshape([side for side in out.shape if side != 1] or [1])
        if out.ndim != 2 or not np.isfinite(out).any():
            raise InputError('ONNX network gives no depth', where=self.path,
                             expected='a first output (1, height, width)',
                             got=f'shape {out.shape}' if out.ndim != 2 else 'no finite value')
        return np.asarray(cv2.resize(out, (width, height), interpolation=cv2.INTER_LINEAR))
