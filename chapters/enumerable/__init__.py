"""`python -m chapters.enumerable`: a world so small that every reply can be listed."""
