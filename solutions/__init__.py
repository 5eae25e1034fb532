"""The exercises solved: rendered from the library, one file a chapter."""
