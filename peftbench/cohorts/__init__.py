"""Raw downloads to manifests and image stores: one short declaration a cohort, over one common path.

Imports no torch.
"""
