"""The evidence pack of a run: all that is known of it in one folder, and the proof, later, that it still holds."""
