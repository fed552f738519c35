"""Colors of the drawn world, and what light and shade make of them."""

from __future__ import annotations

import numpy as np

Rgb = tuple[int, int, int]

WHITE: Rgb = (255, 255, 255)
INK: Rgb = (22, 24, 30)


def shaded(color: Rgb, rng: np.random.Generator, spread: int = 10) -> Rgb:
    """The same color in another light: all channels together, and each a little for itself."""
    shift = rng.integers(-spread, spread + 1) + rng.integers(-spread // 2, spread // 2 + 1, 3)
    red, green, blue = np.clip(np.asarray(color) + shift, 0, 255).tolist()
    return (red, green, blue)


def darker(color: Rgb) -> Rgb:
    return (color[0] * 7 // 10, color[1] * 7 // 10, color[2] * 7 // 10)
