"""A plan as one HTML page that needs nothing else.

layout.py     parameters -> rows of modules, repeated blocks folded
figures.py    a parameter -> a drawing to scale, and what it says in words
moves.py      collectives -> arrows at the modules where they happen
view.py       a plan -> everything the template shows, as plain data
render.py     that -> HTML: names escaped, style and script inline and allowed by their hashes alone
notebook.py   a plan or verdict -> a compact drawing for a notebook's cell
"""

from axisplit.report.page.render import render_page

__all__ = ["render_page"]
