"""Measurements of ls_loss against what people use today. Must not know how any loss is computed."""
