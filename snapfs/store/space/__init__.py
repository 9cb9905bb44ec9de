"""Which blocks are free, taken or held by snapshots: groups, bitmaps, records."""
