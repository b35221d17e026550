"""``scope demo``: what each method keeps of a long text, and how many answers are right then."""
