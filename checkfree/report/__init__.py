"""Tables, plots and pages, made from records and timelines alone. All plotting stands here."""
