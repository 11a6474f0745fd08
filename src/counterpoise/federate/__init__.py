"""Data spread over clients that share updates but no samples."""
