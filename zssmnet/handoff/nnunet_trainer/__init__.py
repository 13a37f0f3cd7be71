"""Trainers for nnU-Net v2 (2.8.1 or newer), which finds them in this folder if ``nnUNet_extTrainer`` names it.

nnU-Net imports `zssmnet_trainer` by itself; nothing else of this package needs nnU-Net.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
