# SPDX-License-Identifier: Apache-2.0
"""A map that several threads look at in turn: the compiled renderers are not all reentrant."""

import threading
from typing import Any

from thermal_nerf_loc.sensing.rendering import Array32, RayRendering, Renderer


class SharedMap:
    """The same map behind a lock; whoever renders in the background must ask for few rays."""

    def __init__(self, renderer: Renderer) -> None:
        """Take the map over."""
        self._renderer = renderer
        self._lock = threading.Lock()

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the map can show."""
        return self._renderer.modalities

    def render_rays(self, modality: str, origins: Array32, directions: Array32) -> RayRendering:
        """Look along rays once nobody else does."""
        with self._lock:
            return self._renderer.render_rays(modality, origins, directions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._renderer, name)
