"""Drawing a patient's anatomy around a zonal mask, and the organs around a prostate; all sizes in mm."""

import math
from collections.abc import Iterator

import numpy as np

from zssmnet.phantom.anatomy import Anatomy, Focus, Labels, Organ, Tissue
from zssmnet.phantom.gland import PERIPHERAL_ZONE, TRANSITION_ZONE
from zssmnet.phantom.grid import Axes, Ellipsoid, GridSpec, Point, SmoothField
from zssmnet.preparation.cropping import bounding_box

MARGIN_MM = 6.0
"""Around the gland's bounding box, in which veins, nerves and capsules lie."""


def gland_box(grid: GridSpec, zones_zyx: Labels) -> tuple[Point, Point]:
    """Centre of the gland's bounding box in the patient, and half its size along the grid's axes, in mm."""
    box = bounding_box(zones_zyx)
    assert box
    x, y, z = np.array(box.size) / 2 * np.array(grid.spacing_mm)
    return grid.position((np.add(box.start, box.stop) - 1) / 2), (float(x), float(y), float(z))


def sample_anatomy(
    grid: GridSpec,
    zones_zyx: Labels,
    reach: tuple[Axes, ...],
    rng: np.random.Generator,
    subtle: bool = False,
    *,
    lesions: bool = True,
    bilateral: bool = False,
) -> Anatomy:
    """Draw an anatomy.

    Args:
        grid: the mask's grid.
        zones_zyx: the zonal mask, labels 0, 1, 2.
        reach: positions, in mm from the gland's centre, of all grids that will be painted.
        rng: source of everything that varies between patients.
        subtle: whether lesions are subtle, one case in three has none, and there are mimics of them.
        lesions: whether lesions are drawn.
        bilateral: whether two foci look like subtle lesions, but mirror each other.
    """
    centre_mm, half_mm = gland_box(grid, zones_zyx)
    x, y, z = half_mm
    extent = _union(reach)
    organs = surroundings(half_mm, rng)
    nodules = _nodules(grid, zones_zyx, centre_mm, rng)
    foci = _lesions(grid, zones_zyx, centre_mm, rng, subtle) if lesions else ()
    distortion = [SmoothField.sample(rng, extent, (14.0, 14.0, 16.0)) for _ in range(2)]
    texture = SmoothField.sample(rng, extent, (4.0, 4.0, 5.0))
    mimics = _mimics(grid, zones_zyx, centre_mm, rng) if subtle else ()
    if bilateral:
        mimics += _bilateral(grid, zones_zyx, centre_mm, rng)
    half_mm = (x + MARGIN_MM, y + MARGIN_MM, z + MARGIN_MM)
    return Anatomy(centre_mm, half_mm, organs, nodules, (*mimics, *foci), (distortion[0], distortion[1]), texture)


def _union(reach: tuple[Axes, ...]) -> Axes:
    """First and last position along x, y, z of several grids."""
    x, y, z = (
        np.array([min(axes[i][0] for axes in reach), max(axes[i][-1] for axes in reach)], np.float32) for i in range(3)
    )
    return x, y, z


def _somewhere(
    grid: GridSpec, zone_zyx: np.ndarray, centre_mm: Point, count: int, rng: np.random.Generator
) -> list[Point]:
    """Random voxels of a zone: their positions in mm from the gland's centre, along the grid's axes."""
    voxels = np.argwhere(zone_zyx)
    axes = grid.axes_mm(centre_mm)
    chosen = voxels[rng.integers(len(voxels), size=count)]
    return [(float(axes[0][x]), float(axes[1][y]), float(axes[2][z])) for z, y, x in chosen]


def _nodules(
    grid: GridSpec, zones_zyx: Labels, centre_mm: Point, rng: np.random.Generator
) -> tuple[tuple[Ellipsoid, float], ...]:
    """One nodule in about 0.8 ml of transition zone, at most 80; larger ones in larger glands."""
    zone = zones_zyx == TRANSITION_ZONE
    volume_ml = float(zone.sum() * np.prod(grid.spacing_mm)) / 1000
    count = int(min(6 + volume_ml / 0.8, 80))
    nodules = []
    for centre in _somewhere(grid, zone, centre_mm, count, rng):
        x, y, z = rng.uniform(2.5, 4.0 + volume_ml ** (1 / 3)) * rng.uniform(0.75, 1.25, size=3)
        shape = Ellipsoid(centre, (x, y, z), rng.uniform(0, 180))
        nodules.append((shape, float(rng.choice([rng.uniform(0.6, 0.85), rng.uniform(1.2, 2.2)]))))
    return tuple(nodules)


def _lesions(
    grid: GridSpec, zones_zyx: Labels, centre_mm: Point, rng: np.random.Generator, subtle: bool
) -> tuple[Focus, ...]:
    """One or two lesions, or none if they are subtle; seven in ten of them in the peripheral zone."""
    lesions = []
    for _ in range(rng.integers(0 if subtle else 1, 3)):
        zone = PERIPHERAL_ZONE if rng.random() < 0.7 else TRANSITION_ZONE
        (centre,) = _somewhere(grid, zones_zyx == zone, centre_mm, 1, rng)
        x, y, z = rng.uniform(4.5, 7.5) * rng.uniform(0.8, 1.25, size=3)
        shape = Ellipsoid(centre, (x, y, max(z, 5.0)), rng.uniform(0, 180))
        lesions.append(Focus(Tissue.SUBTLE_LESION if subtle else Tissue.LESION, shape))
    return tuple(lesions)


def _mimics(grid: GridSpec, zones_zyx: Labels, centre_mm: Point, rng: np.random.Generator) -> tuple[Focus, ...]:
    """Two to four stromal nodules with a capsule in the transition zone; old blood and inflammation in the other."""
    kinds = (
        *((Tissue.STROMAL_NODULE, TRANSITION_ZONE, True),) * int(rng.integers(2, 5)),
        *((Tissue.HAEMORRHAGE, PERIPHERAL_ZONE, False),) * int(rng.integers(1, 4)),
        *((Tissue.INFLAMMATION, PERIPHERAL_ZONE, False),) * int(rng.integers(1, 3)),
    )
    mimics = []
    for tissue, zone, has_capsule in kinds:
        (centre,) = _somewhere(grid, zones_zyx == zone, centre_mm, 1, rng)
        x, y, z = rng.uniform(4.5, 8.0) * rng.uniform(0.8, 1.25, size=3)
        mimics.append(Focus(tissue, Ellipsoid(centre, (x, y, max(z, 5.0)), rng.uniform(0, 180)), (zone,), has_capsule))
    return tuple(mimics)


def _bilateral(grid: GridSpec, zones_zyx: Labels, centre_mm: Point, rng: np.random.Generator) -> tuple[Focus, ...]:
    """A focus and its mirror image on the other side."""
    (centre,) = _somewhere(grid, zones_zyx > 0, centre_mm, 1, rng)
    x, y, z = rng.uniform(4.5, 7.5) * rng.uniform(0.8, 1.25, size=3)
    shape = Ellipsoid(centre, (x, y, max(z, 5.0)), rng.uniform(0, 180))
    return Focus(Tissue.BILATERAL, shape), Focus(Tissue.BILATERAL, shape.mirrored())


def surroundings(half_mm: Point, rng: np.random.Generator) -> tuple[Organ, ...]:
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
    # femoral head and acetabulum, ischium, pubic bones
    yield from _pair(Tissue.MARROW, Ellipsoid((a + 52, -8, 20), (25, 26, 34)), Tissue.CORTEX, 2.0)
    yield from _pair(Tissue.MARROW, Ellipsoid((a + 34, 30, -12), (11, 20, 42), 14), Tissue.CORTEX, 1.6)
    yield from _pair(Tissue.MARROW, Ellipsoid((17, -b - 27, -c - 8), (15, 16, 26), 35), Tissue.CORTEX, 1.5)
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
