"""What a run has reached, and where a detector loses its AP."""
