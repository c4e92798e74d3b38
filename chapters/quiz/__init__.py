"""Predict, then run: `python -m chapters.quiz`."""
