"""Programs that a user of shmhub would copy; each runs in the tests."""
