"""The plugins of the site builder: ordinary modules of plain functions.

They know nothing of files, of each other, or of who calls them: the same functions are called in
the builder's own process, in the workers of a ``ProcessPoolExecutor`` and as shmhub plugins.
"""
