"""The contract suite that every channel passes, importable by others."""
