"""The table of converters: ATen operator -> what writes it for Keras.

Importing this module fills the table from its neighbours, each of which knows one family of operators.
"""

from builder.keras_text import choosing, learned, pointwise, sequences, shaping, windows
from builder.keras_text.table import TABLE

__all__ = ["TABLE", "choosing", "learned", "pointwise", "sequences", "shaping", "windows"]
