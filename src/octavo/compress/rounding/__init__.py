"""How weights become codes once a format is settled: each by itself, or with the errors of others fed back."""
