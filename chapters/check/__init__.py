"""`python -m chapters.check`: grades an exercise."""
