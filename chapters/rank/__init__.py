"""`python -m chapters.rank`: say which reply is better, as annotators do."""
