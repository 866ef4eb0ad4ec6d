"""The words that all others speak: addresses, ops, records, configuration. No torch, no I/O."""
