"""Linear systems with symmetric operators, by algorithms that know only the operator protocol."""
