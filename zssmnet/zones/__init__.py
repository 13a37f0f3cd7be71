"""Zonal masks from T2W (and ADC, DWI) by fine-tuned networks: training, prediction, and what makes a mask doubtful."""
