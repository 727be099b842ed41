"""What can change in a network without changing its loss: flat directions and canonical forms."""
