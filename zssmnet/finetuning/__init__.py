"""Fine-tuning of a network on labelled cases: windows, loss, the loop with its checkpoints, prediction."""
