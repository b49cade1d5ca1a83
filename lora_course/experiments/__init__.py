"""What is built from whole runs: tables, comparisons, searches and pictures."""
