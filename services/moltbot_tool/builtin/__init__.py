"""Tools that every installation has: pure, or read-only, and safe."""
