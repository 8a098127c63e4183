"""Loss surfaces fitted to runs: precision, skills, overtraining; and the sweeps that make the runs."""
