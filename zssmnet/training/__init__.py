"""Pre-training: MNet learns to restore corrupted cubes (Z-SSMNet, arXiv 2212.05808, section on pre-training)."""
