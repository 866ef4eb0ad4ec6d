"""How machines come and go: invitations, applications, who takes which seat, discovery."""
