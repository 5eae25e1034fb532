"""What the stubs promise, sentence by sentence, and the check of each or the reason that there is none."""
