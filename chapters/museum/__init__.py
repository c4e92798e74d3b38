"""The museum of silent bugs: wrong versions of this package's functions that raise no error.

Read before: the file of the function an exhibit is about. Start with `python -m chapters.museum`.
"""
