"""The pages: one question each. Read the draft, draw, write the draft."""
