"""A page on which characters are drawn and told apart by trained weights."""
