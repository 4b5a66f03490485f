"""The ground floor: structures, vector spaces, budgets, errors, files, clocks and progress bars."""
