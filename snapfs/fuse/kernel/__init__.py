"""What the kernel remembers and holds back, and how it is told that this is outdated."""
