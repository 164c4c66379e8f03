"""The few modules that no library has in the form we need. Each stands alone: exports copy its source as it is."""
