"""The parts of architecture search: children, tables, live searches, figures."""
