"""`python -m chapters.chat`: talk to a kitten."""
