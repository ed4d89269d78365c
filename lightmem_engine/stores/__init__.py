"""What is kept on disk, and the indexes derived from it."""
