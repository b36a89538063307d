"""Bits on, off, and in turns: masks, selection of what to keep, applying and switching. No files."""
