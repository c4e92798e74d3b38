"""`python -m chapters.ch6_r1` runs story.py."""

import sys

from chapters.bands.verdicts import print_verdicts
from chapters.common.runner import chapter_main


def main(argv=None) -> int:
    return chapter_main("ch6_r1", print_verdicts, argv)


if __name__ == "__main__":
    sys.exit(main())
