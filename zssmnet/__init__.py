"""Self-supervised pre-training of Z-SSMNet: the science, without any orchestration."""
