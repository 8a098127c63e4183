"""What a model's weights matter for: texts to calibrate on, and the Fisher information that they leave behind."""
