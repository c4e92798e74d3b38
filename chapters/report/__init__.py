"""`python -m chapters.report`: all results as one page that works offline."""
