"""Storage in S3: objects, copies of them here, and leases."""
