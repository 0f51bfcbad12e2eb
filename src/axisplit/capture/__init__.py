"""Capture: model and inputs to a functional `Graph` (`trace`, `record`), with where its integers came from
(`provenance`).
"""
