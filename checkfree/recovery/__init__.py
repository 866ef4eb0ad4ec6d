"""What is done about a lost stage: one strategy a file, all of the same protocol."""
