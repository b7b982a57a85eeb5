"""Studies of papers, each in a file of its own."""
