"""Settings: what a user may write, checked before any job starts. Imports no torch, touches no network."""
