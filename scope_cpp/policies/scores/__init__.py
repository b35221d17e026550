"""How attention becomes a number per row: pure functions over arrays, one concern per module.

`folding` merges newly observed weights into the scores of the rows, `ranking` turns the scores
of all rows into the numbers by which they compete, `neighbours` and `redundancy` do that with an
eye on other rows.
"""
