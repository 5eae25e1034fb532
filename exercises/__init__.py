"""What a student fills in: rendered from the library, one file a chapter."""
