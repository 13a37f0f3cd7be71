"""What was trained and published: runs, versions, the data behind them, champion against challenger."""
