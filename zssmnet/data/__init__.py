"""What comes in: archives, image files, one checked examination, splits."""
