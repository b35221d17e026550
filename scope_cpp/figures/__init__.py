"""Figures from a user's own runs: numbers, a table of them, a picture, and the same in a terminal.

One module for each figure; `figure` says what one is, `output` where it goes, `style` how it
looks. matplotlib is imported only when a picture is drawn.
"""
