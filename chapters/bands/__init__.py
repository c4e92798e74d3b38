"""`python -m chapters.bands`: where the numbers of five seeds lie."""
