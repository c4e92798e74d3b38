"""The lessons as notebooks: `python -m chapters.notebooks`."""
