"""What is written to disk: runs that resume, and files replaced as a whole."""
