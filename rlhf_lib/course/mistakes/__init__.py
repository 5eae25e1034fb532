"""Named mistakes of every topic: edits of its solutions."""
