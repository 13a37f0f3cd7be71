"""Trained and published models: runs, versions, the data behind them, champion against challenger."""
