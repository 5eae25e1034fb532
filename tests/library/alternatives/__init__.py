"""Right answers that differ from the solutions in every way that the text allows."""
