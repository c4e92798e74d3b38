"""`python -m chapters.export`: a kitten as a Hugging Face folder."""
