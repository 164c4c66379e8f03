"""A traced network as the text of a Keras 3 model: `writer` walks the operators, the others each know a family."""
