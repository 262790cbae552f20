"""Cohorts: many registrations on a cluster of Dask workers, and what is made of them. May import everything but cli."""
