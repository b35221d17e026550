"""How outputs are scored; only `files` reads any file, and nothing here knows a model.

================  ========================================================================
`numbers`         numbers in prose
`gold`            what LongGenBench's scorers are given
`authors`         LongGenBench as the SCOPE authors score it, by order of appearance
`strict`          LongGenBench by the number of the question
`latex`           final answers in LaTeX (MATH-500)
`tsv`             rows of a table (LongProc html_to_tsv)
`countdown`       the search and its solution (LongProc countdown)
`files`           a whole file of outputs
================  ========================================================================
"""
