"""What hosts do and how they are reached."""
