"""The organs around a prostate, as a pelvis has them; all sizes in mm."""

import math
from collections.abc import Iterator

import numpy as np

from zssmnet.phantom.anatomy import Organ
from zssmnet.phantom.grid import Triple
from zssmnet.phantom.shapes import Ellipsoid
from zssmnet.phantom.tissues import Tissue


def surroundings(half_mm: Triple, rng: np.random.Generator) -> tuple[Organ, ...]:
    """The organs around a gland of the half size x, y, z, in the order of painting."""
    a, b, c = half_mm
    fill = rng.uniform(0.8, 1.15)  # of the bladder
    wide = rng.uniform(0.85, 1.3)  # of the rectum
    return (
        Organ(Tissue.FAT, Ellipsoid((0, 26, 0), (185, b + 80, math.inf)), Tissue.CORTEX, 1.5),
        *_wall_and_bones(a, b, c),
        *_pelvic_floor(a, b, c),
        Organ(
            Tissue.STOOL,
            Ellipsoid((rng.uniform(-3, 3), b + 14, 0), (15 * wide, 12.5 * wide, math.inf), 0, 0.22),
            Tissue.RECTAL_WALL,
            rng.uniform(4.5, 8.5) * wide,
        ),
        Organ(Tissue.PLEXUS, Ellipsoid((0, -b - 5, -0.1 * c), (20, 9, c))),
        *_pair(Tissue.SEMINAL_VESICLE, Ellipsoid((17, 6, c + 7), (17, 6, 8), -14)),
        Organ(
            Tissue.URINE,
            Ellipsoid((rng.uniform(-3, 3), -b * 0.4 - 10, c + 20 * fill), (36 * fill, 27 * fill, 28 * fill)),
            Tissue.BLADDER_WALL,
            3.5,
        ),
    )


def _wall_and_bones(a: float, b: float, c: float) -> Iterator[Organ]:
    """Muscles and bones of the pelvic ring, from the outside to the inside."""
    yield from _pair(Tissue.MUSCLE, Ellipsoid((62, b + 62, 0), (62, 24, math.inf), -22))  # gluteus maximus
    yield from _pair(Tissue.MUSCLE, Ellipsoid((17, -b - 41, 30), (18, 5, 62), 8))  # rectus abdominis
    yield from _pair(Tissue.MUSCLE, Ellipsoid((74, -b - 28, -10), (27, 15, math.inf), 25))  # iliopsoas
    yield from _pair(Tissue.MUSCLE, Ellipsoid((52, -16, -c - 28), (15, 42, 34), 38))  # obturator externus
    yield from _pair(
        Tissue.MARROW, Ellipsoid((a + 52, -8, 20), (25, 26, 34)), Tissue.CORTEX, 2.0
    )  # femoral head, acetabulum
    yield from _pair(Tissue.MARROW, Ellipsoid((a + 34, 30, -12), (11, 20, 42), 14), Tissue.CORTEX, 1.6)  # ischium
    yield from _pair(
        Tissue.MARROW, Ellipsoid((17, -b - 27, -c - 8), (15, 16, 26), 35), Tissue.CORTEX, 1.5
    )  # pubic bones
    yield from _pair(Tissue.MUSCLE, Ellipsoid((a + 19, 4, 2), (8.5, 40, 55), 6))  # obturator internus
    yield from _pair(Tissue.ARTERY, Ellipsoid((58, -b - 44, 0), (4.5, 4.5, math.inf)))
    yield from _pair(Tissue.VEIN, Ellipsoid((47, -b - 41, 0), (5.5, 4.5, math.inf)), Tissue.ARTERY, 1.0)
    coccyx = Ellipsoid((0, b + 58, 10), (11, 8, math.inf), 0, 0.3)
    yield Organ(Tissue.MARROW, coccyx, Tissue.CORTEX, 1.5)


def _pelvic_floor(a: float, b: float, c: float) -> Iterator[Organ]:
    """Levator ani: a funnel around gland and rectum that narrows towards the feet, and the bundles inside."""
    yield Organ(Tissue.MUSCLE, Ellipsoid((0, b * 0.5 + 5, 2), (a + 10, b + 27, c + 22)))
    yield Organ(Tissue.FAT, Ellipsoid((0, b * 0.5 + 1, 6), (a + 8.5, b + 28, c + 23)))  # open to the front
    yield Organ(Tissue.MUSCLE, Ellipsoid((0, b * 0.6, -c - 10), (17, b + 9, 17)))
    yield from _pair(Tissue.PLEXUS, Ellipsoid((a * 0.8, b * 0.75, 0), (6, 4.5, c), 35))  # nerves and vessels
    yield from _pair(Tissue.VEIN, Ellipsoid((a + 3, -b * 0.1, 0), (2.0, 8, 0.9 * c), 5))


def _pair(tissue: Tissue, shape: Ellipsoid, rim: Tissue | None = None, rim_mm: float = 0.0) -> Iterator[Organ]:
    yield Organ(tissue, shape, rim, rim_mm)
    yield Organ(tissue, shape.mirrored(), rim, rim_mm)
