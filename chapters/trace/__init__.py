"""`python -m chapters.trace`: one training step, number by number."""
