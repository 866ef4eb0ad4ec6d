"""The processes of a run on one machine: started, found, asked, swept."""
