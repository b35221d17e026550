"""The bounded cache of one sequence: what it holds, and how it is read, cut and taken back."""
