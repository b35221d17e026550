"""``scope eval``: what eviction does to the answers of a model.

================  ===========================================================================
`task`, `tasks`   items, and how an output is scored
`scorers`         the scorers that tasks share
`catalogue`       the list of tasks
`rows`, `grid`    configurations of the cache that are compared, at equal total cells
`sets`            all methods, all scoring rules, all prefill policies
`config`          what a run's results depend on, and how two such things differ
`sample`          one item under one row
`prepare`, `run`  all of them: several at once, resumed, stopped
`result`          what came of it
`record`          what comes of one: a line of a run's file
`folder`, `files` a run's files
`loops`           outputs that repeat themselves
`fidelity`        rows against the full cache's own text, token by token
`stats`           bootstrap intervals, paired differences, a permutation test
`metrics`         what predictions sum up to
`compare`         two runs
`score`           a file of outputs
`report`          tables of a run and of a comparison
`overview`        a run in one table: rows by budgets
================  ===========================================================================

Tasks know nothing of models, rows nothing of tasks; `run` brings them together.
"""
