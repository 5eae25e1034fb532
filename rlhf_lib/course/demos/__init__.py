"""What `python -m solutions.<topic>` and `python -m exercises.<topic>` show: rendered at the end of those files."""
