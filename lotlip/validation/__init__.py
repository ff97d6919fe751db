"""Validation: row rules that quarantine single samples, and Great Expectations suites over the tables."""
