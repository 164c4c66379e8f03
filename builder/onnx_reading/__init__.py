"""What an ONNX graph is read with: the walk through it, and what each operator becomes."""
