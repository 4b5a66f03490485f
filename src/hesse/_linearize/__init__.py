"""Engines linearize a map at a point once, and replay it for any vector."""
