"""What scripts/reproduce.py is made of: pictures, networks, training, grids of runs, claims."""
