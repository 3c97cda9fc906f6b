"""What the machine offers, and data made from formulas."""
