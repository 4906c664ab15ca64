"""The report as one HTML page that needs no other file.

`page.py` fills `page.html.jinja` with tables and figures; `findings.py` writes the sentences at the top of the page.
"""
