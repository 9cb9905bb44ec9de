"""The volume's own tables: instances, restores, running copies."""
