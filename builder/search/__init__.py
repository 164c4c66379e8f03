"""Which settings win: the space of a search, its studies on disk, and the driver that carries them out."""
