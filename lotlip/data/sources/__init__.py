"""Sources: what is asked for, from tables, folders, shards, saved datasets and the sample."""
