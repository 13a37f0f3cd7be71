"""Synthetic bi-parametric prostate MRI for the demo, the tests and the benchmarks.

A case starts from a zonal mask, drawn (`zonal_mask`) or given. Around it, a pelvis is drawn once (`sampling`) and
painted on any grid (`anatomy`); tissues become T2W, ADC and DWI signals (`signals`). Frame of the anatomy: mm from
the gland's centre, along the axes of the T2W grid, x to the patient's left, y to the back, z to the head.
"""

from zssmnet.phantom.archives import (
    case_ids,
    evenly_split_cases,
    phantom_around,
    phantom_case,
    write_archive,
    write_case,
)
from zssmnet.phantom.gland import PERIPHERAL_ZONE, TRANSITION_ZONE, zonal_mask
from zssmnet.phantom.grid import DEMO_GRIDS, GridSpec, oblique_axial
from zssmnet.phantom.signals import PhantomCase, draw_case

__all__ = [
    "DEMO_GRIDS",
    "PERIPHERAL_ZONE",
    "TRANSITION_ZONE",
    "GridSpec",
    "PhantomCase",
    "case_ids",
    "draw_case",
    "evenly_split_cases",
    "oblique_axial",
    "phantom_around",
    "phantom_case",
    "write_archive",
    "write_case",
    "zonal_mask",
]
