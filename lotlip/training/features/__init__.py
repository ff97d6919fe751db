"""Image features of a locked tower: computed once, kept in files, and gathered row by row."""
