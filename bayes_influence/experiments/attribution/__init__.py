"""Attribution of a run: which training examples shaped its predictions."""
