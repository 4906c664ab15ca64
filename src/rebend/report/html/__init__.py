"""The report as one self-contained HTML page.

`page.py` fills `page.html.jinja` with tables and figures; `findings.py` writes the sentences at the top of the page.
"""
