"""Everything about a recipe that cannot work here, found before anything is computed.

`init`, `check` and `run` share `checker.check` (before the data is read) and
`checker.check_with_data` (when the numbers of rows and the model's layers are known).
"""
