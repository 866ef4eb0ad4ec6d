"""Log and replay: a lost stage comes back with the very bits that it had, and nobody rolls back.

Every seat keeps what it sends (its *log*), and now and then all stages put an exact copy of one
version on each other's seats (a *wave*). A lost stage begins with its copy and runs the iterations
since then once more, by itself, on what its neighbours sent it. Known as sender-based message
logging (Elnozahy et al., 2002), for pipelines as SWIFT (arXiv 2302.06173).
"""
