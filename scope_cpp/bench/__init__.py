"""``scope bench``: rows that are processes of their own and take turns, so that ratios hold.

row.py says what one row measures, request.py which rows a test needs. worker.py is the program of
a row's process; stock.py, bounded.py and turn.py are what it measures. run.py starts the rows and
lets them take turns, summary.py makes medians and ratios of their blocks, report.py and plot.py
show them; measure.py is the whole of it.
"""
