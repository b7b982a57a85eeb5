"""The store of a study: cells, results, fingerprints, versions, and the runner that resumes."""
