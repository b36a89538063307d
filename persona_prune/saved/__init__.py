"""Bytes from outside, in one room: persona files of every format, and runs that have finished."""
