"""A run as a small local service: upload a scan, get the JSON of `python -m builder predict`.

`answering` asks the run, `receiving` streams what comes to the disk, `application` is the HTTP door (FastAPI),
`process` the server, as a command or started by a page.
"""
