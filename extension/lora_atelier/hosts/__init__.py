"""The image-generation programs that we live in, each behind the one Host protocol."""
