"""Trainers for nnU-Net v2 (2.8 or newer), which finds them by ``nnUNet_extTrainer``: it is to name this folder, `FOLDER`.

nnU-Net imports `zssmnet_trainer` by itself; nothing else of this package needs nnU-Net.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
