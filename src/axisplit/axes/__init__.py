"""Axes: what tensor dims are made of (`expression`), what ops do to them (`law`, `rules`), derived for a
whole graph (`derive`).
"""
