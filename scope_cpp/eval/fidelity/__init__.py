"""Fidelity: how far a bounded cache moves a model's next-token distributions from the full one's.

The full cache writes a text. Each row then reads the same prompt and is fed the same tokens, and
its distribution of every next token is compared with the full cache's.

==============  ============================================================================
`divergence`    two distributions, and sums over the tokens of a text: pure functions
`reference`     the full cache's text and distributions in one file, and what they belong to
`measure`       prompts that fit, the rows' attention paths, each reference written once
`report`        the tables, and a sentence of verdict
`summary`       several runs in one table
==============  ============================================================================
"""
