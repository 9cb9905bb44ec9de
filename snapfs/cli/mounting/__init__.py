"""What the mount command does around the daemon."""
