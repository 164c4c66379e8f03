"""The written reference says what the catalogs say."""

from pathlib import Path

from builder.parts.__main__ import reference
from builder.parts.layers import LAYERS

WRITTEN = Path(__file__).parents[1] / "docs" / "catalog.md"


def test_the_written_reference_is_up_to_date():
    assert WRITTEN.read_text("utf-8") == reference(), "run: python -m builder.parts > docs/catalog.md"


def test_every_layer_and_each_of_its_settings_is_explained():
    text = reference()
    for layer in LAYERS.values():
        assert f"### {layer.title}\n" in text
        assert all(f"| `{p.name}` |" in text for p in layer.params)
