"""Is a dataset folder whole, what exactly is wrong with it, and what is to be done."""
