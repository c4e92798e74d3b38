"""`python -m chapters.report` writes the page; page.py says what is on it."""

import sys

from chapters.report.page import main

if __name__ == "__main__":
    sys.exit(main())
