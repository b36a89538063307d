"""The cellar: what three wings need and none is about. It knows no persona and no model."""
