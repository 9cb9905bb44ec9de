"""The commands that a volume understands, with or without a daemon."""
