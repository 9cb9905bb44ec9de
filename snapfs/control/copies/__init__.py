"""Commands about full copies, and what goes on behind them."""
