"""From numbers and predictions to files, pictures and lines on the console."""
