"""MINI-SUPERB: a small, fixed benchmark of the ten tasks, made by one command in the official corpora's layouts."""
