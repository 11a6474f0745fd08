"""Tasks and classes that arrive one after another, learnt without losing the earlier ones."""
