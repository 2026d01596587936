"""What is true: the log, what it folds to, the view of it, and the tables that keep them.

Imports nothing of ours from above. Speaks to no network and to no file but the database.
"""
