"""GEM-3D: volumes from masks and one patient slice."""
