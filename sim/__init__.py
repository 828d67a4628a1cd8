"""hooklab: a laboratory for webhook delivery."""
