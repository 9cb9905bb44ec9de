"""Commit, recovery, allocation, records, instances and block maps: what makes a device a volume."""
