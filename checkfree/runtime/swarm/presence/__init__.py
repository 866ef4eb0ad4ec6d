"""Who is here, who is gone, and who does not get on."""
