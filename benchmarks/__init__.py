"""Measurements that the documentation reports, and what they run on."""
