"""Rules for operators that PyTorch cannot differentiate, each against an independent reference."""
