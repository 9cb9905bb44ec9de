"""Taking paths out of snapshots."""
