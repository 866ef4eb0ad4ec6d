"""Shadows, with all their sides: ``plan`` (what is pushed when, and what a loss is repaired from),
``owner`` (who pushes), ``holder`` (who holds), ``ledger`` (what the lead counts on), and how they
are written: ``format``, ``signs``, ``changes`` of what a holder has, told apart by ``references``,
and moved on by ``ahead``."""
