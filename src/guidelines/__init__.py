"""What guidelines say of measured nodules."""
