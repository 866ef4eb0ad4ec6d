"""Which node has which seats. Pure: nodes and seats in, moves out."""
