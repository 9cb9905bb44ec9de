"""Walking views and tables, and holding against them what bitmaps and records say."""
