"""How fast GPUs compute, as their makers publish it: for estimates only, never for a limit.

Sources: NVIDIA's data sheets and architecture white papers (Turing, Ampere GA10x and A100, Ada, Hopper, Blackwell). The
first number is what the trainer can use: dense tensor TFLOPS in bfloat16 with float32 accumulation, and plain float32
where the GPU has no bfloat16 units, because the trainer then computes in float32. The second is memory bandwidth.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class GpuSpeed:
    tflops: float
    memory_gb_per_s: float
    known: bool = True
    """False: not in the table, and taken for a small card."""


UNKNOWN_GPU = GpuSpeed(50.0, 500.0, known=False)

_SPEEDS = {
    "T4": (8.1, 320), "V100": (15.7, 900), "RTX 2080 Ti": (13.4, 616), "Quadro RTX 6000": (16.3, 672),
    "Quadro RTX 8000": (16.3, 672), "Titan RTX": (16.3, 672),
    "RTX 3060": (25.5, 360), "RTX 3060 Ti": (32.4, 448), "RTX 3070": (40.6, 448), "RTX 3070 Ti": (43.5, 608),
    "RTX 3080": (59.5, 760), "RTX 3080 Ti": (68.0, 912), "RTX 3090": (71.0, 936), "RTX 3090 Ti": (80.0, 1008),
    "RTX A4000": (76.7, 448), "RTX A4500": (94.6, 640), "RTX A5000": (111.1, 768), "RTX A6000": (154.8, 768),
    "A10": (125.0, 600), "A10G": (70.0, 600), "A16": (18.0, 200), "A30": (165.0, 933), "A40": (149.7, 696),
    "A100": (312.0, 1555), "A100 80GB": (312.0, 1935), "A100 SXM": (312.0, 2039),
    "RTX 4060": (30.2, 272), "RTX 4060 Ti": (44.1, 288), "RTX 4070": (58.3, 504), "RTX 4070 Super": (71.0, 504),
    "RTX 4070 Ti": (80.2, 504), "RTX 4070 Ti Super": (88.2, 672), "RTX 4080": (97.5, 717),
    "RTX 4080 Super": (104.4, 736), "RTX 4090": (165.2, 1008),
    "RTX 2000 Ada": (48.0, 224), "RTX 4000 Ada": (106.9, 360), "RTX 4500 Ada": (158.4, 432),
    "RTX 5000 Ada": (261.1, 576), "RTX 6000 Ada": (364.2, 960), "L4": (121.0, 300), "L40": (181.0, 864),
    "L40S": (362.0, 864),
    "RTX 5060 Ti": (47.4, 448), "RTX 5070": (61.7, 672), "RTX 5070 Ti": (87.9, 896), "RTX 5080": (112.6, 960),
    "RTX 5090": (209.5, 1792), "RTX PRO 6000": (503.8, 1792),
    "H100": (756.0, 2000), "H100 SXM": (989.0, 3350), "H100 80GB HBM3": (989.0, 3350), "H100 NVL": (835.0, 3900),
    "H200": (989.0, 4800), "B200": (2250.0, 8000),
}  # fmt: skip
_MARKETING = ("nvidia", "geforce", "tesla", "generation", "server", "workstation", "edition", "blackwell")


def gpu_speed(gpu: str) -> GpuSpeed:
    """By the name a provider uses ("NVIDIA GeForce RTX 4090", "RTX 6000Ada", "A100 SXM4"); UNKNOWN_GPU without a match.

    The longest name of the table that the given one begins with wins, so that an "RTX 4070 Ti" is no "RTX 4070".
    """
    words = _plain(gpu)
    fitting = [name for name in _PLAIN if words.startswith(name)]
    if not fitting:
        return UNKNOWN_GPU
    tflops, bandwidth = _PLAIN[max(fitting, key=len)]
    return GpuSpeed(tflops, bandwidth)


def _plain(gpu: str) -> str:
    text = gpu.casefold()
    for word in _MARKETING:
        text = text.replace(word, "")
    return re.sub(r"[^a-z0-9]", "", text)


_PLAIN = {_plain(name): speed for name, speed in _SPEEDS.items()}
