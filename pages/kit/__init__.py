"""The drawing code that pages share: the only place for it. Never listed as a page."""
