"""Exercises: the heart of each section, to be written by the reader.

Open a file, replace `raise NotImplementedError` by your own lines, and let the package's own tests
grade them:  python -m chapters.check dpo
"""
