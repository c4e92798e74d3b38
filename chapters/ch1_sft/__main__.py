"""`python -m chapters.ch1_sft` runs story.py."""

import sys

from chapters.bands.verdicts import print_verdicts
from chapters.common.runner import chapter_main


def main(argv=None) -> int:
    return chapter_main("ch1_sft", print_verdicts, argv)


if __name__ == "__main__":
    sys.exit(main())
