"""Data: the generated shapes, and checks of what people have."""
