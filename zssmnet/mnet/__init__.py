"""MNet, the mesh of 2D and 3D streams (IJCAI 2022, arXiv 2205.04846) that Z-SSMNet pre-trains."""

from zssmnet.mnet.blocks import Merge
from zssmnet.mnet.network import SUPERVISION_WEIGHTS, MNet, head_sizes

__all__ = ["SUPERVISION_WEIGHTS", "MNet", "Merge", "head_sizes"]
