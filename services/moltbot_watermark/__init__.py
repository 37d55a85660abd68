"""Watermark service: keys, the Unicode mark for black-box text, fingerprints, detection, GB 45438-2025 labels."""
