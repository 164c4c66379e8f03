"""What a model of Keras is read with: its file, the walk through its layers, and what each of them becomes."""
