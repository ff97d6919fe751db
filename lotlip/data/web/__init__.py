"""Downloads from the web: polite, resumable to the row, never hanging."""
