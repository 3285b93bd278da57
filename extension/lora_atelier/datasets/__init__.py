"""Folders of pictures -> items, captions and buckets."""
