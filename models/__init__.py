"""Plain ``nn.Module`` families, cut into pipeline stages. Imports nothing of checkfree.

Importing this package does not import torch; its families (``llama``, ``gpt``) do.
"""
