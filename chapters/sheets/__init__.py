"""Paper tasks to print, and a rehearsal of the lessons: `python -m chapters.sheets`."""
