"""Blind rating: people say which of two answers speaks more like the persona, not knowing whose answers they read."""
