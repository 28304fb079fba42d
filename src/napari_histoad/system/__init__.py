"""What is not about tissue: tables."""
